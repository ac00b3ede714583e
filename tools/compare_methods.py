#!/usr/bin/env python3
"""Compare methods on the same labels and seeds: run what is missing of a matrix, and report on all of it.

    python tools/compare_methods.py configs/comparison/toy.yaml [--output output/comparison/toy] [--jobs N]
        [--only METHOD[/DRAW] ...] [--keep-weights] [--report-only | --dry-run] [--document docs/results.md]
        [--records docs/records/toy]

Each run is one ``train_net.py`` below OUTPUT/runs; one that was interrupted is resumed, one that is done is left alone,
also where another comparison with the same output folder made it. With --records a run that was recorded in that folder
counts as done, and those that are done now are recorded; the project's own records are in docs/records. Writes NAME.md,
NAME.csv, NAME_curves.png and NAME_bars.png to the output folder, NAME being the YAML file's. Exit status: 1 if runs
failed (the others went on), 2 for a mistake in what was given, 130 when interrupted: the same command goes on from
there.
"""

import argparse
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Plan with the package that train_net.py, in its own folder, will run with, whichever is installed.
sys.path.insert(0, str(REPOSITORY))

from rc2l_d2.comparison import (  # noqa: E402
    FIGURES,
    Comparison,
    PlannedRun,
    Runner,
    collect,
    draw_bars,
    draw_curves,
    keep_records,
    load_comparison,
    markdown,
    plan_runs,
    restore_records,
    select_runs,
    write_csv,
    write_section,
)
from rc2l_d2.errors import InputError  # noqa: E402

TRAIN_NET = REPOSITORY / "train_net.py"


def report(comparison: Comparison, plan: list[PlannedRun], output: Path, document: Path | None, command: str) -> None:
    """Write tables and pictures of what is done, and print what is left out and the targets."""
    results = collect(comparison, plan)
    if results.left_out and not results.records:
        raise InputError(results.left_out[0])
    pictures = [output / f"{comparison.name}_{kind}.png" for kind in ("curves", "bars")]
    output.mkdir(parents=True, exist_ok=True)
    draw_curves(comparison, results.cells, pictures[0])
    draw_bars(comparison, results.cells, pictures[1])
    write_csv(results, output / f"{comparison.name}.csv")
    table = output / f"{comparison.name}.md"
    table.write_text(f"# {comparison.title}\n\n{markdown(results, plan, command, '')}", encoding="utf-8")
    if document is not None:
        text = markdown(results, plan, command, FIGURES)
        write_section(document, comparison.name, comparison.title, text, pictures)
    for sentence in results.left_out:
        print(f"compare_methods.py: {sentence}", file=sys.stderr)
    for verdict in results.verdicts():
        print(f"{verdict.outcome.upper()}: {verdict.target}: {verdict.figures}")
    print(f"Report: {table}" + (f" and {document}" if document else ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", help="YAML file of the comparison")
    parser.add_argument("--output", type=Path, help="folder of runs and report (default: as the file says)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="METHOD[/DRAW]",
        help="run these alone (may be given again); the report is on all",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)")
    parser.add_argument("--document", type=Path, help="Markdown file in which to rewrite this comparison's section")
    parser.add_argument("--records", type=Path, help="folder of records of finished runs, to be used and added to")
    parser.add_argument("--keep-weights", action="store_true", help="keep the last checkpoint of each complete run")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--report-only", action="store_true", help="run nothing, report on what is done")
    what.add_argument("--dry-run", action="store_true", help="print the runs and their state, and stop")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; give a number from 1")

    comparison = load_comparison(args.comparison)
    output = args.output or comparison.output
    plan = plan_runs(comparison, output)
    selected = select_runs(plan, args.only)
    if args.records is not None:
        for sentence in restore_records(plan, args.records):
            print(f"compare_methods.py: {sentence}", file=sys.stderr)
    if args.dry_run:
        for planned in selected:
            state = planned.state()
            print(f"{state:7}{shlex.join(['python', 'train_net.py', *planned.arguments(state == 'resume')])}")
        return 0
    failures = [] if args.report_only else Runner(TRAIN_NET, args.jobs, say, args.keep_weights).run(selected, output)
    if args.records is not None:
        keep_records(plan, args.records)
    jobs = f" --jobs {args.jobs}" if args.jobs > 1 else ""
    for failure in failures:
        print(f"compare_methods.py: {failure}", file=sys.stderr)
    report(comparison, plan, output, args.document, f"python tools/compare_methods.py {args.comparison}{jobs}")
    return 1 if failures else 0


def say(line: str) -> None:
    # At once, also into a file or pipe: a comparison takes hours.
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"compare_methods.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("compare_methods.py: interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)

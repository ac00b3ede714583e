"""Compare methods on the same labels and seeds: train what is missing, then write tables and figures.

    python tools/compare_methods.py configs/comparison/toy.yaml [--jobs N] [--output output/comparison/toy]
        [--records docs/records/toy] [--report-only | --dry-run]

Each run is one train_net.py process below OUTPUT/runs. Finished runs are skipped, interrupted ones resumed, also if
another comparison with the same output folder started them. Writes NAME.md, NAME.csv (one row per run), and the figures
NAME_curves.png, NAME_bars.png and NAME_splits.png to the output folder; NAME is that of the YAML file. Exit status: 1
if runs failed (the others continue), 2 for a wrong argument or file, 130 after an interruption.
"""

import argparse
import importlib.util
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Plan with the package that train_net.py beside it uses, whichever version is installed.
sys.path.insert(0, str(REPOSITORY))

from rc2l_d2.comparison import load_comparison, train_missing  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="YAML file of the comparison")
    parser.add_argument("--output", type=Path, help="folder of runs and report (default: as in the file)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which divide the cores (default: 1)")
    parser.add_argument("--records", type=Path, help="folder of records of finished runs: read, and added to")
    parser.add_argument("--only", action="append", metavar="METHOD", help="train only this method (repeatable)")
    parser.add_argument("--keep-weights", action="store_true", help="keep the checkpoints of finished runs")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--report-only", action="store_true", help="train nothing, report on finished runs")
    mode.add_argument("--dry-run", action="store_true", help="print the commands of the missing runs")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; give a number from 1")
    try:
        return compare(args)
    except (InputError, OSError) as error:
        print(f"compare_methods.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare_methods.py: interrupted; the same command continues.", file=sys.stderr)
        return 130


def compare(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("pandas") is None:
        raise InputError("pandas is not installed; run: pip install -e '.[comparison]'.")
    from rc2l_d2.comparison.report import write_report

    comparison = load_comparison(args.comparison, args.output)
    if unknown := set(args.only or ()) - comparison.methods.keys():
        raise InputError(f"--only {unknown.pop()} is not a method; known: {', '.join(comparison.methods)}.")
    missing = [run for run in comparison.runs if run.finished(args.records) is None]
    missing = [run for run in missing if run.method in (args.only or comparison.methods)]
    if args.dry_run:
        for run in missing:
            print(shlex.join(["python", "train_net.py", *run.arguments]))
        return 0
    failures = []
    if not args.report_only:
        print(f"{len(comparison.runs)} runs, {len(missing)} to train", flush=True)
        script = REPOSITORY / "train_net.py"
        failures = train_missing(missing, script, comparison.output, args.jobs, args.keep_weights)
    for failure in failures:
        print(f"compare_methods.py: {failure}", file=sys.stderr)
    if args.records is not None:
        for run in comparison.runs:
            if stored := run.finished():
                stored.write_record(run.record_file(args.records))
    print(f"Report: {write_report(comparison, args.records, shlex.join(['python', *sys.argv]))}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

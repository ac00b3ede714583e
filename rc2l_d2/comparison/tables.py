"""A comparison's results in words: Markdown for people, also as a section of one document, and CSV for programs."""

from __future__ import annotations

import csv
import math
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import InputError
from ..reporting.run_metrics import STUDENT, TEACHER, Cell, RunResult, mean_and_std
from .matrix import Comparison, Run
from .runs import DONE, PlannedRun
from .targets import Verdict

# Column of the table -> (task, the evaluation that counts).
SCORES = {
    "teacher, last": (TEACHER, RunResult.last),
    "teacher, best": (TEACHER, RunResult.best),
    "student, last": (STUDENT, RunResult.last),
    "student, best": (STUDENT, RunResult.best),
}
# Where the pictures lie, as seen from the document that has a section on each comparison.
FIGURES = "figures"
_HEAD = """# Results

Every number here was written by `tools/compare_methods.py`, which also wrote down what made it: do not edit the
sections, run the command.
"""


@dataclass(frozen=True)
class Results:
    """What the runs of a comparison gave so far.

    Attributes:
        comparison: what was to be compared.
        cells: (method, draw) -> its complete runs.
        records: each complete run -> its ``run.json``.
        left_out: a sentence on each run whose folder cannot be used: it is not in the cells.
        notes: what else a reader of the table has to know of single runs.
    """

    comparison: Comparison
    cells: Mapping[tuple[str, str], Cell]
    records: Mapping[Run, Mapping[str, Any]]
    left_out: Sequence[str]
    notes: Sequence[str]

    def verdicts(self) -> list[Verdict]:
        """Of every target, in order."""
        return [target.judge(self.cells) for target in self.comparison.targets]

    def resumed(self) -> list[Run]:
        """The complete runs that were started more than once."""
        return [run for run, record in self.records.items() if len(record["attempts"]) > 1]


def collect(comparison: Comparison, plan: Sequence[PlannedRun]) -> Results:
    """Read the complete runs of ``plan``; those that another configuration made, or nobody knows what, are left out."""
    done, left_out, notes = [], [], []
    for planned in plan:
        try:
            if planned.state() == DONE:
                done.append(planned)
            else:
                notes.append(f"Not finished: {planned.run}.")
        except InputError as error:
            left_out.append(f"Left out: {planned.run}: {error}")
    cells = {}
    for method, draw in comparison.cells():
        runs = {p.run.seed: p.result() for p in done if (p.run.method, p.run.draw) == (method, draw)}
        cells[method, draw] = Cell(method, draw, runs, len(comparison.seeds))
    notes += [
        f"{planned.run} was interrupted and has no evaluation after {_listed(missed)} iterations; BEST and the curve "
        "lack it."
        for planned in done
        if (missed := planned.missed_evaluations())
    ]
    results = Results(comparison, cells, {planned.run: planned.record() for planned in done}, left_out, notes)
    if resumed := results.resumed():
        notes.append(
            f"Resumed after an interruption: {'; '.join(map(str, resumed))}. What a step draws depends on seed and "
            "iteration alone, so a resumed run goes on as one in one piece would."
        )
    return results


def markdown(results: Results, plan: Sequence[PlannedRun], command: str, images: str) -> str:
    """The whole report.

    Args:
        results: of :func:`collect`.
        plan: every run, for the commands.
        command: the command line of the comparison.
        images: folder of the pictures, as links have it; "" for the report's own.
    """
    comparison = results.comparison
    pictures = f"{images}/{comparison.name}" if images else comparison.name
    parts = [
        "Mean ± sample standard deviation over seeds, of mIoU in percent on the validation images. *Last* is the "
        "evaluation after the last iteration. *Best* is the highest of a run's evaluations: chosen on the validation "
        "images themselves, so it flatters.",
        _table(_score_rows(results)),
    ]
    verdicts = results.verdicts()
    if verdicts:
        rows = [
            {"target (teacher, last, mean over seeds)": v.target, "": f"**{v.outcome}**", "figures": v.figures}
            for v in verdicts
        ]
        parts += ["**Targets**", _table(rows)]
    parts += [f"![Teacher's mIoU over iterations]({pictures}_curves.png)", f"![Teacher's mIoU]({pictures}_bars.png)"]
    parts += ["**IoU of each class** (percent; teacher, last, mean over seeds)", _table(_class_rows(results))]
    parts += ["**How these numbers were made**", _table(_provenance_rows(results, command))]
    if told := [*results.left_out, *results.notes]:
        parts.append("\n".join(f"- {note}" for note in told))
    first = [planned for planned in plan if planned.run.seed == comparison.seeds[0]]
    commands = "\n".join(shlex.join(["python", "train_net.py", *planned.arguments(resume=False)]) for planned in first)
    parts.append(
        f"<details><summary>The runs of seed {comparison.seeds[0]}</summary>\n\n```\n{commands}\n```\n\n</details>"
    )
    return "\n\n".join(parts) + "\n"


def write_csv(results: Results, file: Path) -> None:
    """One row for each method and draw, all numbers in full; empty where there is none."""
    classes = _classes(results)
    columns = ["draw", "method", "seeds"]
    columns += [f"{name.replace(', ', '_')}_{what}" for name in SCORES for what in ("mean", "std")]
    columns += ["seconds_per_step", *(f"teacher_last_IoU_{name}" for name in classes)]
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for cell in results.cells.values():
            row: list[Any] = [cell.draw, cell.method, len(cell.runs)]
            for task, choice in SCORES.values():
                row += mean_and_std(choice(run, task) for run in cell.runs.values()) if cell.runs else ("", "")
            means = cell.class_means(TEACHER)
            writer.writerow([*row, _seconds(cell), *(means.get(name, "") for name in classes)])


def write_section(document: Path, name: str, title: str, text: str, pictures: Sequence[Path]) -> None:
    """Put a comparison's section into ``document``, in place of an earlier one of this name or at the end.

    Each stands between markers and rewrites no other.

    Args:
        document: a Markdown file; made if there is none.
        name: of the comparison.
        title: its heading.
        text: Markdown, in which pictures are linked in the folder ``FIGURES``.
        pictures: PNG files, copied into that folder beside the document; names that no other comparison has.

    Raises:
        InputError: the document has one of the two markers alone.
    """
    begin, end = f"<!-- comparison {name}: written by tools/compare_methods.py -->", f"<!-- end of {name} -->"
    section = f"{begin}\n\n## {title}\n\n{text.strip()}\n\n{end}"
    whole = document.read_text(encoding="utf-8") if document.is_file() else _HEAD
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end) if found else ("", end in whole, "")
    if bool(found) != bool(closed):
        raise InputError(f'{document} has one of the two markers of the section "{name}" alone; put back the other.')
    if not found:
        before, after = f"{whole.rstrip()}\n\n", "\n"
    figures = document.parent / FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, figures / picture.name)
    document.write_text(before + section + after, encoding="utf-8")


def _score_rows(results: Results) -> list[dict[str, str]]:
    rows = []
    for (method, draw), cell in results.cells.items():
        row = {"labels": results.comparison.draws[draw].label, "method": results.comparison.methods[method].label}
        row["seeds"] = f"{len(cell.runs)}" + (f" of {cell.planned}" if len(cell.runs) < cell.planned else "")
        if resumed := sum((run.method, run.draw) == (method, draw) for run in results.resumed()):
            row["seeds"] += f" ({resumed} resumed)"
        for name, (task, choice) in SCORES.items():
            row[name] = _mean_text([choice(run, task) for run in cell.runs.values()])
        row["teacher, last, seed by seed"] = _listed(f"{run.last(TEACHER):.2f}" for run in cell.runs.values())
        seconds = _seconds(cell)
        row["ms per step after burn-in"] = f"{1000 * seconds:.0f}" if seconds != "" else "–"
        rows.append(row)
    return rows


def _class_rows(results: Results) -> list[dict[str, str]]:
    comparison = results.comparison
    return [
        {"labels": comparison.draws[draw].label, "method": comparison.methods[method].label}
        | {name: "–" if math.isnan(iou) else f"{iou:.1f}" for name, iou in cell.class_means(TEACHER).items()}
        for (method, draw), cell in results.cells.items()
        if cell.runs
    ]


def _provenance_rows(results: Results, command: str) -> list[dict[str, str]]:
    attempts = [attempt for record in results.records.values() for attempt in record["attempts"]]

    def all_of(key: str) -> str:
        return _listed(sorted({str(attempt[key]) for attempt in attempts}))

    dates = sorted({attempt["date"] for attempt in attempts})
    iterations = sorted({record["settings"]["SOLVER.MAX_ITER"] for record in results.records.values()})
    shares = sorted({(attempt["jobs"], attempt["threads"]) for attempt in attempts})
    values = {
        "command": f"`{command}`",
        "seeds": _listed(results.comparison.seeds),
        "iterations": _listed(iterations),
        "commit": _commits(results.records),
        "host": all_of("host"),
        "hardware": all_of("hardware"),
        "runs at a time": _listed(f"{jobs} with {threads} thread(s) each" for jobs, threads in shares),
        "torch": all_of("torch"),
        "python": all_of("python"),
        "date": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "–",
        "ms per step after burn-in": "the whole step, reading (and, where asked for, measuring) included, evaluation "
        "not; median over the iterations after burn-in, mean over seeds",
    }
    return [{"": key, "value": value} for key, value in values.items()]


def _commits(records: Mapping[Run, Mapping[str, Any]]) -> str:
    """The commit of all runs; or each with its runs, "all others" for that of the most."""
    runs_of: dict[str, list[str]] = {}
    for run, record in records.items():
        commits = dict.fromkeys(attempt["commit"] for attempt in record["attempts"])
        text = ", resumed with ".join(
            f"{c} (a commit and changes to it)" if c.endswith("-dirty") else c for c in commits
        )
        runs_of.setdefault(text, []).append(str(run))
    if len(runs_of) < 2:
        return _listed(runs_of)
    *few, (most, _) = sorted(runs_of.items(), key=lambda item: len(item[1]))
    return "; ".join([*(f"{text}: {' and '.join(runs)}" for text, runs in few), f"{most}: all others"])


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return "(no run has finished)"
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _classes(results: Results) -> list[str]:
    return list(dict.fromkeys(name for cell in results.cells.values() for name in cell.class_means(TEACHER)))


def _seconds(cell: Cell) -> float | str:
    known = [run.seconds for run in cell.runs.values() if run.seconds is not None]
    return mean_and_std(known)[0] if known else ""


def _mean_text(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, spread = mean_and_std(values)
    return f"{mean:.2f} ± {spread:.2f}" if len(values) > 1 else f"{mean:.2f}"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values)) or "–"

"""A comparison's results in words: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .matrix import Comparison
from .plan import DONE, PlannedRun
from .results import STUDENT, TEACHER, Cell, RunResult, mean_and_std
from .targets import Verdict

# Column of the table -> (task, the evaluation that counts).
SCORES = {
    "teacher, last": (TEACHER, RunResult.last),
    "teacher, best": (TEACHER, RunResult.best),
    "student, last": (STUDENT, RunResult.last),
    "student, best": (STUDENT, RunResult.best),
}


@dataclass(frozen=True)
class Results:
    """What the runs of a comparison gave so far.

    Attributes:
        comparison: what was to be compared.
        cells: (method, draw) -> its complete runs.
        records: each complete run, in words -> its ``run.json``.
        notes: what a reader of the table has to know of single runs.
    """

    comparison: Comparison
    cells: Mapping[tuple[str, str], Cell]
    records: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str]

    def verdicts(self) -> list[Verdict]:
        """Of every target, in order."""
        return [target.judge(self.cells) for target in self.comparison.targets]


def collect(comparison: Comparison, plan: Sequence[PlannedRun]) -> Results:
    """Read the complete runs of ``plan``.

    Raises:
        InputError: a run's folder holds what another configuration made.
    """
    done = [planned for planned in plan if planned.state() == DONE]
    cells = {}
    for method, draw in comparison.cells():
        runs = {p.run.seed: p.result() for p in done if (p.run.method, p.run.draw) == (method, draw)}
        cells[method, draw] = Cell(method, draw, runs, len(comparison.seeds))
    notes = [f"Not finished: {planned.run}." for planned in plan if planned not in done]
    notes += [
        f"{planned.run} was interrupted and has no evaluation after {_listed(missed)} iterations; BEST and the curve "
        "lack it."
        for planned in done
        if (missed := planned.missed_evaluations())
    ]
    return Results(comparison, cells, {str(planned.run): planned.record() for planned in done}, notes)


def markdown(results: Results, plan: Sequence[PlannedRun], command: str, images: str) -> str:
    """The whole report.

    Args:
        results: of :func:`collect`.
        plan: every run, for the commands.
        command: the command line of the comparison.
        images: what stands before "curves.png" and "bars.png" in links.
    """
    comparison = results.comparison
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
    parts += [f"![Teacher's mIoU over iterations]({images}curves.png)", f"![Teacher's mIoU]({images}bars.png)"]
    parts += ["**IoU of each class** (percent; teacher, last, mean over seeds)", _table(_class_rows(results))]
    parts += ["**How these numbers were made**", _table(_provenance_rows(results, command))]
    if results.notes:
        parts.append("\n".join(f"- {note}" for note in results.notes))
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
    columns += ["seconds_per_iteration", *(f"teacher_last_IoU_{name}" for name in classes)]
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for cell in results.cells.values():
            row: list[Any] = [cell.draw, cell.method, len(cell.runs)]
            for task, choice in SCORES.values():
                row += mean_and_std(choice(run, task) for run in cell.runs.values()) if cell.runs else ("", "")
            means = cell.class_means(TEACHER)
            writer.writerow([*row, _seconds(cell), *(means.get(name, "") for name in classes)])


def _score_rows(results: Results) -> list[dict[str, str]]:
    rows = []
    for (method, draw), cell in results.cells.items():
        row = {"labels": results.comparison.draws[draw].label, "method": results.comparison.methods[method].label}
        row["seeds"] = f"{len(cell.runs)}" + (f" of {cell.planned}" if len(cell.runs) < cell.planned else "")
        for name, (task, choice) in SCORES.items():
            row[name] = _mean_text([choice(run, task) for run in cell.runs.values()])
        row["teacher, last, seed by seed"] = _listed(f"{run.last(TEACHER):.2f}" for run in cell.runs.values())
        seconds = _seconds(cell)
        row["ms per iteration"] = f"{1000 * seconds:.0f}" if seconds != "" else "–"
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
        "time per iteration": "forward, backward and update, mean over all iterations, without evaluation",
    }
    return [{"": key, "value": value} for key, value in values.items()]


def _commits(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The commit of all runs; or each with its runs, "all others" for that of the most."""
    runs_of: dict[str, list[str]] = {}
    for run, record in records.items():
        commits = dict.fromkeys(attempt["commit"] for attempt in record["attempts"])
        text = ", resumed with ".join(
            f"{c} (a commit and changes to it)" if c.endswith("-dirty") else c for c in commits
        )
        runs_of.setdefault(text, []).append(run)
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

"""Tables of a comparison: mean and standard deviation over seeds, paired differences, IoU of each class."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..reporting.run_folder import STUDENT, TEACHER, step_seconds
from .runs import Comparison
from .stored import PROVENANCE

LAST, _TIME, _IOU, _CELL = "teacher, last", "ms per step", "IoU-", ["split", "method"]
_SCORES = {TEACHER: ("teacher, last", "teacher, best"), STUDENT: ("student, last", "student, best")}
_EXPLANATION = """Mean ± sample standard deviation over seeds, of mIoU in percent on the test images. *Last*: after the
last iteration. *Best*: the highest evaluation of each run, which is selected on the test images and therefore too high.
*ms per step*: median time of a training step after burn-in, reading included."""


def collect(comparison: Comparison, records: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Read the finished runs, also from a folder of records where a run has no folder of its own.

    Returns:
        one row per run: split, method, seed, the scores in percent, ms per step and IoU-CLASS of the teacher;
        one row per evaluation: split, method, seed, iteration and the teacher's mIoU in percent;
        Markdown lines on provenance and on runs that have not finished.

    Raises:
        InputError: another configuration made the results of a run; see :meth:`.runs.Run.finished`.
    """
    rows, curves, unfinished, attempts = [], [], [], []
    for run in comparison.runs:
        if (stored := run.finished(records)) is None:
            unfinished.append(str(run))
            continue
        cell = {"split": run.split, "method": run.method, "seed": run.seed}
        row = dict(cell)
        for task, (last, best) in _SCORES.items():
            curve = stored.scalars[f"{task}/mIoU"]
            row |= {last: curve[stored.max_iter], best: max(curve.values())}
            if task == TEACHER:
                curves += [{**cell, "iteration": iteration, "mIoU": miou} for iteration, miou in curve.items()]
        row[_TIME] = 1000 * (step_seconds(stored.scalars, run.burn_in) or float("nan"))
        for name, values in stored.scalars.items():
            if name.startswith(f"{TEACHER}/{_IOU}"):
                row[name.removeprefix(f"{TEACHER}/")] = values[stored.max_iter]
        rows.append(row)
        attempts += stored.attempts
    lines = [f"- {key}: {'; '.join(sorted({str(attempt.get(key)) for attempt in attempts}))}" for key in PROVENANCE]
    lines += [f"- not finished: {'; '.join(unfinished)}"] if unfinished else []
    return pd.DataFrame(rows), pd.DataFrame(curves), lines


def score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores of each split and method as text, "mean ± standard deviation" over seeds."""
    groups = scores.groupby(_CELL)
    table = pd.DataFrame({"seeds": groups.size()})
    for name in (name for names in _SCORES.values() for name in names):
        table[name] = groups[name].mean().map("{:.2f}".format) + groups[name].std().map(" ± {:.2f}".format)
        table[name] = table[name].str.removesuffix(" ± nan")
    table[f"{LAST}, by seed"] = groups[LAST].agg(lambda values: ", ".join(values.map("{:.2f}".format)))
    table[_TIME] = groups[_TIME].mean().map("{:.0f}".format)
    return table


def class_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the teacher's IoU of each class after the last iteration, in percent, mean over seeds, as text."""
    ious = [name for name in scores if name.startswith(_IOU)]
    return scores.groupby(_CELL)[ious].mean().map("{:.1f}".format).rename(columns=lambda name: name.removeprefix(_IOU))


def paired_differences(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the teacher's last mIoU minus the baseline's of the same split and seed.

    Returns:
        indexed by split and method: "mean" in points of mIoU, "standard error" of the mean over seeds (NaN for one
        seed), "seeds" that both methods have, and "by seed" as text. Splits without the baseline are absent.
    """
    pairs = scores.merge(scores[scores["method"] == baseline], on=["split", "seed"], suffixes=("", " baseline"))
    pairs = pairs[pairs["method"] != baseline]
    groups = (pairs[LAST] - pairs[f"{LAST} baseline"]).groupby([pairs[name] for name in _CELL])
    by_seed = groups.agg(lambda values: ", ".join(values.map("{:+.2f}".format)))
    columns = {"mean": groups.mean(), "standard error": groups.sem(), "seeds": groups.size(), "by seed": by_seed}
    return pd.DataFrame(columns)


def markdown(comparison: Comparison, scores: pd.DataFrame, lines: list[str]) -> str:
    """Return the report; its figures are linked by file name."""
    differences = paired_differences(scores, comparison.baseline)
    for name, form in (("mean", "{:+.2f}"), ("standard error", "{:.2f}")):
        differences[name] = differences[name].map(form.format)
    paragraphs = [
        f"# {comparison.title}",
        _EXPLANATION,
        _text(comparison, score_table(scores)),
        f"**Difference to {comparison.methods[comparison.baseline]}** (teacher, last; points of mIoU; pairs of equal "
        "split and seed)",
        _text(comparison, differences),
        f"![Teacher's mIoU over iterations]({comparison.name}_curves.png)",
        f"![Teacher's mIoU]({comparison.name}_bars.png)",
        "**IoU of each class** (percent; teacher, last, mean over seeds)",
        _text(comparison, class_table(scores)),
        "\n".join(lines),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _text(comparison: Comparison, table: pd.DataFrame) -> str:
    """Return a Markdown table with rows in the order of the comparison file and labels instead of names."""
    cells = [(split, method) for split in comparison.splits for method in comparison.methods]
    table = table.loc[[cell for cell in cells if cell in table.index]].reset_index().astype(str)
    table = table.replace("nan", "–").replace({"split": comparison.splits, "method": comparison.methods})
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True)

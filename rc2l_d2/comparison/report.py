"""The report of a comparison: tables NAME.md and NAME.csv, figures NAME_curves.png, NAME_bars.png, NAME_splits.png."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from ..reporting.charts import COLORS, line_style
from ..reporting.run_folder import STUDENT, TEACHER, step_seconds
from .runs import Comparison
from .stored import PROVENANCE

_AXIS = "mIoU of the teacher (%)"
LAST, _TIME, _IOU, _CELL = "teacher, last", "ms per step", "IoU-", ["split", "method"]
_SCORES = {TEACHER: ("teacher, last", "teacher, best"), STUDENT: ("student, last", "student, best")}
_EXPLANATION = """Mean ± sample standard deviation over seeds, of mIoU in percent on the test images. *Last*: after the
last iteration. *Best*: the highest evaluation of each run, which is selected on the test images and therefore too high.
*ms per step*: median time of a training step after burn-in, reading included."""


def write_report(comparison: Comparison, records: Path | None, command: str) -> Path:
    """Write tables and figures of the finished runs to the output folder, and return the path of NAME.md.

    Raises:
        InputError: no run has finished, or another configuration made the results of a run.
    """
    scores, curves, lines = collect(comparison, records)
    if not len(scores):
        raise InputError(
            f"No run of {comparison.name} has finished, so there is no report; train the runs first, without "
            f"--report-only."
        )
    comparison.output.mkdir(parents=True, exist_ok=True)
    start = comparison.output / comparison.name
    scores.to_csv(f"{start}.csv", index=False)
    draw_curves(comparison, curves, Path(f"{start}_curves.png"))
    draw_bars(comparison, scores, Path(f"{start}_bars.png"))
    draw_splits(comparison, scores, Path(f"{start}_splits.png"))
    table = Path(f"{start}.md")
    table.write_text(markdown(comparison, scores, [f"- command: `{command}`", *lines]), encoding="utf-8")
    return table


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
        cells = groups[name].mean().map("{:.2f}".format) + groups[name].std().map(" ± {:.2f}".format)
        table[name] = cells.str.removesuffix(" ± nan")
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
        f"![Teacher's mIoU over splits]({comparison.name}_splits.png)",
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


def draw_curves(comparison: Comparison, curves: pd.DataFrame, file: Path) -> None:
    """Draw mean and, for few methods, standard deviation over seeds; one panel per split with runs."""
    figure, panels = _panels(comparison, set(curves["split"]), max(4.2, 0.24 * len(comparison.methods)), "iterations")
    for (split, method), cell in curves.groupby(["split", "method"]):
        points = cell.groupby("iteration")["mIoU"].agg(["mean", "std"]).fillna(0.0)
        color, style = line_style([*comparison.methods].index(method))
        label, mean, std = comparison.methods[method], points["mean"], points["std"]
        panels[split].plot(points.index, mean, marker=".", label=label, color=color, linestyle=style)
        if len(comparison.methods) <= 6:  # Bands of more methods would hide the lines.
            panels[split].fill_between(points.index, mean - std, mean + std, alpha=0.15, linewidth=0, color=color)
    figure.axes[0].set_ylabel(_AXIS)
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    figure.savefig(file, dpi=130)


def draw_bars(comparison: Comparison, scores: pd.DataFrame, file: Path) -> None:
    """Draw the mean over seeds as a bar and each seed as a dot; one panel per split with runs."""
    figure, panels = _panels(comparison, set(scores["split"]), 0.42 * len(comparison.methods) + 1.9, _AXIS)
    for (split, method), cell in scores.groupby(["split", "method"]):
        index = [*comparison.methods].index(method)
        panels[split].barh(index, cell[LAST].mean(), color=COLORS[index % len(COLORS)], alpha=0.55, height=0.7)
        panels[split].plot(cell[LAST], [index] * len(cell), "o", color="black", markerfacecolor="white", markersize=4)
    figure.axes[0].set_yticks(range(len(comparison.methods)), comparison.methods.values())
    figure.axes[0].set_ylim(len(comparison.methods) - 0.4, -0.6)
    figure.savefig(file, dpi=130)


def draw_splits(comparison: Comparison, scores: pd.DataFrame, file: Path) -> None:
    """Draw the mean over seeds as a line over the splits with runs, in the file's order, and each seed as a dot."""
    splits = [split for split in comparison.splits if split in set(scores["split"])]
    figure = Figure(figsize=(1.1 * len(splits) + 4.4, max(4.2, 0.24 * len(comparison.methods))), layout="constrained")
    axis = figure.subplots()
    for method, cell in scores.groupby("method"):
        color, style = line_style([*comparison.methods].index(method))
        means = cell.groupby("split")[LAST].mean().reindex(splits).dropna()
        label = comparison.methods[method]
        axis.plot([splits.index(split) for split in means.index], means, label=label, color=color, linestyle=style)
        axis.plot(cell["split"].map(splits.index), cell[LAST], "o", color=color, markerfacecolor="white", markersize=4)
    axis.set_xticks(range(len(splits)), [comparison.splits[split] for split in splits])
    axis.set(title=comparison.title, xlabel="labels", ylabel=_AXIS)
    _plain(axis)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(file, dpi=130)


def _panels(comparison: Comparison, drawn: Collection[str], height: float, label: str) -> tuple[Figure, dict]:
    splits = [split for split in comparison.splits if split in drawn]
    figure = Figure(figsize=(4.4 * len(splits) + 2.2, height), layout="constrained")
    axes = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axis, split in zip(axes, splits, strict=True):
        axis.set(title=f"labels: {comparison.splits[split]}", xlabel=label)
        _plain(axis)
    figure.suptitle(comparison.title, fontsize="medium")
    return figure, dict(zip(splits, axes, strict=True))


def _plain(axis: Axes) -> None:
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)

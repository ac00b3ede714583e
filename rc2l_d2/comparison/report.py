"""The report of a comparison: tables in NAME.md and NAME.csv, figures NAME_curves.png and NAME_bars.png."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..errors import InputError
from ..reporting.charts import COLORS, line_style
from .runs import Comparison
from .tables import LAST, collect, markdown

_AXIS = "mIoU of the teacher (%)"


def write_report(comparison: Comparison, records: Path | None, command: str) -> Path:
    """Write tables and figures of the finished runs to the output folder, and return the path of NAME.md.

    Raises:
        InputError: no run has finished, or another configuration made the results of a run.
    """
    scores, curves, lines = collect(comparison, records)
    if not len(scores):
        raise InputError(f"No run of {comparison.name} has finished, so there is no report.")
    comparison.output.mkdir(parents=True, exist_ok=True)
    start = comparison.output / comparison.name
    scores.to_csv(f"{start}.csv", index=False)
    draw_curves(comparison, curves, Path(f"{start}_curves.png"))
    draw_bars(comparison, scores, Path(f"{start}_bars.png"))
    table = Path(f"{start}.md")
    table.write_text(markdown(comparison, scores, [f"- command: `{command}`", *lines]), encoding="utf-8")
    return table


def draw_curves(comparison: Comparison, curves: pd.DataFrame, file: Path) -> None:
    """Draw mean and, for few methods, standard deviation over seeds; one panel per split."""
    figure, panels = _panels(comparison, max(4.2, 0.24 * len(comparison.methods)), "iterations")
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
    """Draw the mean over seeds as a bar and each seed as a dot; one panel per split."""
    figure, panels = _panels(comparison, 0.42 * len(comparison.methods) + 1.9, _AXIS)
    for (split, method), cell in scores.groupby(["split", "method"]):
        index = [*comparison.methods].index(method)
        panels[split].barh(index, cell[LAST].mean(), color=COLORS[index % len(COLORS)], alpha=0.55, height=0.7)
        panels[split].plot(cell[LAST], [index] * len(cell), "o", color="black", markerfacecolor="white", markersize=4)
    figure.axes[0].set_yticks(range(len(comparison.methods)), comparison.methods.values())
    figure.axes[0].set_ylim(len(comparison.methods) - 0.4, -0.6)
    figure.savefig(file, dpi=130)


def _panels(comparison: Comparison, height: float, label: str) -> tuple[Figure, dict]:
    figure = Figure(figsize=(4.4 * len(comparison.splits) + 2.2, height), layout="constrained")
    axes = figure.subplots(1, len(comparison.splits), sharey=True, squeeze=False)[0]
    for axis, split in zip(axes, comparison.splits.values(), strict=True):
        axis.set(title=f"labels: {split}", xlabel=label)
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(comparison.title, fontsize="medium")
    return figure, dict(zip(comparison.splits, axes, strict=True))

"""A comparison in two pictures: curves over iterations, and bars with the single seeds as dots."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from ..reporting.charts import COLORS
from ..reporting.run_metrics import TEACHER, Cell, mean_and_std
from .matrix import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")
# With more methods than this, bands over each other hide the lines.
_MOST_BANDS = 6
_AXIS = "mIoU of the teacher (%)"


def _styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Method -> (colour, dashes)."""
    colors = cycle(COLORS)
    return {
        method: (color, _DASHES[index // len(COLORS) % len(_DASHES)])
        for index, (method, color) in enumerate(zip(comparison.methods, colors, strict=False))
    }


def draw_curves(comparison: Comparison, cells: Mapping[tuple[str, str], Cell], file: Path) -> None:
    """Teacher's mIoU over iterations, one panel a draw: mean over seeds and, of a few methods, a band of one standard
    deviation.

    Draws on which some methods do not run are references: they have no panel, and a gray line in those of the others.
    """
    panels, references = _split(comparison)
    styles = _styles(comparison)
    bands = len(styles) <= _MOST_BANDS
    figure = _figure(5.2 * len(panels) + 2.2, max(4.2, 0.24 * len(styles)))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles = {}
    for axis, draw in zip(axes, panels, strict=True):
        for (method, of), cell in cells.items():
            if not cell.runs or of not in (draw, *references):
                continue
            curve = cell.mean_curve(TEACHER)
            x, mean = list(curve), [point[0] for point in curve.values()]
            if of in references and of != draw:
                label, color, dashes = _reference_label(comparison, cell), "0.45", (0, (6, 2, 1, 2))
            else:
                label, (color, dashes) = comparison.methods[method].label, styles[method]
                if bands:
                    low, high = ([m + sign * s for m, s in curve.values()] for sign in (-1, 1))
                    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            marker = "o" if len(x) < 30 else ""
            handles[label] = axis.plot(x, mean, color=color, linestyle=dashes, marker=marker, markersize=4)[0]
        axis.set(title=f"labels: {comparison.draws[draw].label}", xlabel="iterations")
        _tidy(axis)
    axes[0].set_ylabel(_AXIS)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    figure.suptitle(
        f"{comparison.title}: mean {'and standard deviation ' if bands else ''}over seeds", fontsize="medium"
    )
    figure.savefig(file, dpi=130)


def draw_bars(comparison: Comparison, cells: Mapping[tuple[str, str], Cell], file: Path) -> None:
    """Teacher's mIoU after the last iteration, one panel a draw: the mean as a bar, the seeds as dots."""
    panels, references = _split(comparison)
    styles = _styles(comparison)
    rows = max(len(comparison.draws[draw].methods) for draw in panels)
    figure = _figure(4.6 * len(panels) + 1.6, 0.42 * rows + 1.9)
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axis, draw in zip(axes, panels, strict=True):
        methods = comparison.draws[draw].methods
        labels = {method: comparison.methods[method].label for method in methods}
        for place, method in enumerate(methods):
            scores = [run.last(TEACHER) for run in cells[method, draw].runs.values()]
            if not scores:
                continue
            mean = mean_and_std(scores)[0]
            axis.barh(place, mean, color=styles[method][0], alpha=0.55, height=0.7)
            axis.plot(
                scores, [place] * len(scores), "o", color="black", markersize=4, markerfacecolor="white", zorder=3
            )
            labels[method] += f"  {mean:.1f}"
        for (_, of), cell in cells.items():
            if of in references and of != draw and cell.runs:
                mean = mean_and_std(run.last(TEACHER) for run in cell.runs.values())[0]
                label = f"{_reference_label(comparison, cell)}: {mean:.1f}"
                axis.axvline(mean, color="0.45", linestyle=(0, (6, 2, 1, 2)), label=label)
        axis.set_yticks(range(len(methods)), labels.values())
        axis.set_ylim(len(methods) - 0.4, -0.6)
        axis.set(title=f"labels: {comparison.draws[draw].label}", xlabel=_AXIS)
        _tidy(axis)
    references_shown = axes[0].get_legend_handles_labels()
    if references_shown[0]:
        figure.legend(*references_shown, loc="outside lower center", frameon=False)
    figure.suptitle(f"{comparison.title}: last iteration, mean (bar) and seeds (dots)", fontsize="medium")
    figure.savefig(file, dpi=130)


def _figure(*size: float) -> Figure:
    # Half a second, which who draws nothing need not spend.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _split(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Draws with a panel, and references."""
    references = comparison.references()
    return [name for name in comparison.draws if name not in references], references


def _reference_label(comparison: Comparison, cell: Cell) -> str:
    return f"{comparison.methods[cell.method].label}, labels: {comparison.draws[cell.draw].label}"


def _tidy(axis: Axes) -> None:
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)

"""Line charts as SVG images that are readable on light and dark backgrounds."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np

# Okabe and Ito's colours, which people of every colour vision can distinguish; gray instead of black, for dark pages.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#888888")
# Names of line styles in CSS and in matplotlib.
_STYLES = ("solid", "dashed", "dotted")
_GRAY = "#808080"
# More points cannot be distinguished in a chart.
_MAX_POINTS = 400


def line_style(index: int) -> tuple[str, str]:
    """Return colour (hex) and line style of the curve with this index."""
    return COLORS[index % len(COLORS)], _STYLES[index // len(COLORS) % len(_STYLES)]


def line_chart(curves: Sequence[Mapping[int, float]], end: int, mark: int = 0) -> str:
    """Draw curves over iterations.

    Args:
        curves: iterations -> value, in order; neighbours are averaged where there are too many.
        end: right end of the axis, in iterations.
        mark: iterations of a vertical dotted line; 0 for none.

    Returns:
        data URI of an SVG image with transparent background and without legend.
    """
    # Imported here: it takes half a second, which runs without a report save.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "chart", "font.size": 8, "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.2, 2.1))
        figure.subplots_adjust(left=0.13, right=0.98, bottom=0.13, top=0.92)
        axis = figure.subplots()
        for index, points in enumerate(curves):
            color, style = line_style(index)
            groups = np.array_split([*points.items()], min(len(points), _MAX_POINTS))
            x, y = np.transpose([group.mean(axis=0) for group in groups])
            axis.plot(x, y, color=color, linestyle=style, marker="." if len(x) < 30 else "")
        axis.set_xlim(0, 1.02 * end)
        if mark:
            axis.axvline(mark, color=_GRAY, linewidth=0.8, linestyle=":")
        axis.grid(color=_GRAY, alpha=0.3, linewidth=0.6)
        axis.locator_params(nbins=5)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
        axis.tick_params(colors=_GRAY, length=0)
        axis.yaxis.get_offset_text().set_color(_GRAY)
        axis.spines[:].set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return data_uri("svg+xml", file)


def data_uri(kind: str, file: io.BytesIO) -> str:
    """Return an image file of this MIME subtype as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

"""Curves as SVG without a colour of their own: the page around them says what its colours are, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# In light and in dark: the last of the first is black, and blues and reds are dim on a dark ground.
# Okabe and Ito's colours, which people of every colour vision tell apart; then again with other dashes.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
PALETTE = tuple(zip(COLORS, ("#5AAEE8", "#F0B030", "#2CC99A", "#E59CC5", "#9AD8FF", "#FF8A45", "#E8E8E8"), strict=True))
_DASHES = ("-", "--", ":", "-.")
# Colours that are drawn with, and what of the page's style sheet takes their places.
_TEXT, _GRID = ("#010101", "var(--muted)"), ("#020202", "var(--rule)")
_LINES = tuple((f"#0303{index:02x}", f"var(--line{index})") for index in range(len(PALETTE)))
# More points are not to be told apart in a chart, and make a page large.
_MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: for the legend, which is the page's affair.
        points: iterations -> value, in order.
        style: its place among colours, then among dashes.
        faint: whether it stands behind the others.
    """

    label: str
    points: Mapping[int, float]
    style: int
    faint: bool = False

    @property
    def last(self) -> float:
        """The last value."""
        return next(reversed(self.points.values()))

    @property
    def color(self) -> int:
        """Its place in ``PALETTE``."""
        return self.style % len(PALETTE)

    @property
    def dashes(self) -> str:
        """As matplotlib writes them."""
        return _DASHES[self.style // len(PALETTE) % len(_DASHES)]


def line_chart(name: str, lines: Sequence[Line], end: int, mark: int = 0) -> str:
    """An ``<svg>`` element with curves over iterations, for a page that defines ``--muted``, ``--rule`` and, for each
    place in ``PALETTE``, ``--line0`` ...

    Args:
        name: of the chart, unique in its page; letters, digits and "-".
        lines: at least one.
        end: where the axis of iterations ends.
        mark: iterations at which a vertical line stands; 0: nowhere.
    """
    # Half a second, which runs that draw nothing need not spend.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8}):
        figure = Figure(figsize=(4.2, 2.1))
        figure.subplots_adjust(left=0.13, right=0.95, bottom=0.13, top=0.92)
        axis = figure.subplots()
        for line in lines:
            points = _thinned(line.points)
            axis.plot(
                [x for x, _ in points], [y for _, y in points], color=_LINES[line.color][0], linestyle=line.dashes,
                linewidth=0.8 if line.faint else 1.5, alpha=0.55 if line.faint else None, zorder=2 if line.faint else 3,
                marker="o" if len(points) < 30 and not line.faint else "", markersize=3,
            )  # fmt: skip
        axis.set_xlim(0, end)
        if mark:
            axis.axvline(mark, color=_TEXT[0], linewidth=0.8, linestyle=(0, (2, 3)))
        axis.grid(color=_GRID[0], linewidth=0.6)
        axis.set_axisbelow(True)
        axis.locator_params(nbins=5)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
        axis.tick_params(colors=_TEXT[0], length=0)
        axis.yaxis.get_offset_text().set_color(_TEXT[0])
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(_TEXT[0])
        axis.patch.set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(file.getvalue(), name)


def _thinned(points: Mapping[int, float]) -> list[tuple[float, float]]:
    """At most ``_MOST_POINTS``: means of as many neighbours as it takes, each at the last one's place."""
    pairs = list(points.items())
    step = -(-len(pairs) // _MOST_POINTS)
    parts = [pairs[first : first + step] for first in range(0, len(pairs), max(1, step))]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _for_a_page(svg: str, name: str) -> str:
    """matplotlib's file as an element: without prolog and name spaces, names of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for drawn, wanted in (_TEXT, _GRID, *_LINES):
        svg = svg.replace(drawn, wanted)
    return re.sub(r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)

"""Comparisons of methods: a matrix of runs from one YAML file; tables, pictures and a document from their results."""

from .document import picture_prefix, write_section
from .figures import draw_bars, draw_curves
from .matrix import Comparison, load_comparison
from .plan import PlannedRun, plan_runs
from .report import Results, collect, markdown, write_csv
from .runner import Runner

__all__ = [
    "Comparison",
    "PlannedRun",
    "Results",
    "Runner",
    "collect",
    "draw_bars",
    "draw_curves",
    "load_comparison",
    "markdown",
    "picture_prefix",
    "plan_runs",
    "write_csv",
    "write_section",
]

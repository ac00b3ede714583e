"""Comparisons of methods: a matrix of runs from one YAML file; tables, pictures and a document from their results."""

from .figures import draw_bars, draw_curves
from .matrix import Comparison, load_comparison
from .plan import PlannedRun, plan_runs, select_runs
from .records import keep_records, restore_records
from .report import FIGURES, Results, collect, markdown, write_csv, write_section
from .runner import Runner, hardware

__all__ = [
    "FIGURES",
    "Comparison",
    "PlannedRun",
    "Results",
    "Runner",
    "collect",
    "draw_bars",
    "draw_curves",
    "hardware",
    "keep_records",
    "load_comparison",
    "markdown",
    "plan_runs",
    "restore_records",
    "select_runs",
    "write_csv",
    "write_section",
]

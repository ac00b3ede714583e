"""Comparisons of methods over splits and seeds: one YAML file describes the runs, tables and figures come out."""

from .figures import draw_bars, draw_curves
from .matrix import Comparison, load_comparison
from .records import keep_records, restore_records
from .runner import Runner
from .runs import PlannedRun, plan_runs, select_runs
from .tables import FIGURES, Results, collect, markdown, write_csv, write_section

__all__ = [
    "FIGURES",
    "Comparison",
    "PlannedRun",
    "Results",
    "Runner",
    "collect",
    "draw_bars",
    "draw_curves",
    "keep_records",
    "load_comparison",
    "markdown",
    "plan_runs",
    "restore_records",
    "select_runs",
    "write_csv",
    "write_section",
]

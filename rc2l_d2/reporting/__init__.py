"""What runs gave: a page on each, and comparisons, a matrix of runs from one YAML file with tables and pictures."""

from .figures import draw_bars, draw_curves
from .matrix import Comparison, load_comparison
from .plan import PlannedRun, plan_runs, select_runs
from .provenance import hardware, note_start
from .records import keep_records, restore_records
from .report import FIGURES, Results, collect, markdown, write_csv, write_section
from .run_report import report_on, write_run_report
from .runner import Runner

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
    "note_start",
    "plan_runs",
    "report_on",
    "restore_records",
    "select_runs",
    "write_csv",
    "write_run_report",
    "write_section",
]

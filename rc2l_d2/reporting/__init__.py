"""The training report: one HTML page about one run, and the provenance of runs."""

from .provenance import hardware, note_start
from .training_report import report_on, write_run_report

__all__ = ["hardware", "note_start", "report_on", "write_run_report"]

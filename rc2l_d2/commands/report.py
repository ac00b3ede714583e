"""Write OUTPUT_DIR/report.html, the training report: later, during a run, or with a baseline beside it.

    rc2l-report output/toy_rc2l [--baseline output/toy_supervised]

It reads config.yaml, metrics.json and the last checkpoint of the folder; only the example images need the checkpoint.
Paths in config.yaml are relative to the current directory: call the command where the run started. A user's mistake
ends it with one sentence and exit status 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reporting import write_run_report
from .cli import run_cli


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR", help="folder of the run")
    baseline = "folder of a run to compare with, on the same test data"
    parser.add_argument("--baseline", type=Path, metavar="OUTPUT_DIR", help=baseline)
    return run_cli(parser, lambda args: print(f"Report: {write_run_report(args.folder, args.baseline)}"))

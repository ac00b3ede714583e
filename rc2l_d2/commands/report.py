"""Make the page on a run, OUTPUT_DIR/report.html: again, later, with a baseline beside it, or of one that goes on.

    rc2l-report output/toy_rc2l [--baseline output/toy_supervised]

Reads what the run left in the folder: config.yaml, metrics.json and the last checkpoint (or teacher_final.pth), which
only the pictures need; and the images that they are of. The configuration's paths count from the current directory, so
give the command where the run was started. Exit status 2 for a mistake in what was given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reporting import write_run_report
from .cli import run_cli


def main() -> int:
    """What the command line asks for; 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR", help="folder of the run")
    parser.add_argument(
        "--baseline", type=Path, metavar="OUTPUT_DIR", help="folder of a run to compare with, on the same test data"
    )
    return run_cli(parser, lambda args: print(f"Report: {write_run_report(args.folder, args.baseline)}"))

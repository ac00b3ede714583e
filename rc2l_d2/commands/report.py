"""Write the training report of a run, OUTPUT_DIR/report.html: again, with a baseline, or before the run has finished.

    rc2l-report output/toy_rc2l [--baseline output/toy_supervised]

Reads config.yaml, metrics.json and the last checkpoint of OUTPUT_DIR, and the example images. Relative paths in the
configuration count from the current directory, so call the command where the run was started. Exit status 2 for a wrong
argument or file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..errors import InputError
from ..reporting import write_run_report


def main() -> int:
    """Write the report; return 0, or 2 if that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR", help="folder of the run")
    parser.add_argument("--baseline", type=Path, metavar="OUTPUT_DIR", help="folder of a run with the same test data")
    args = parser.parse_args()
    try:
        print(f"Report: {write_run_report(args.folder, args.baseline)}")
    except InputError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        return 2
    return 0

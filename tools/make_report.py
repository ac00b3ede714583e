#!/usr/bin/env python3
"""Make the page on a run, OUTPUT_DIR/report.html: again, later, with a baseline beside it, or of one that goes on.

    python tools/make_report.py output/toy_rc2l [--baseline output/toy_supervised]

Reads what the run left in the folder: config.yaml, metrics.json and the last checkpoint (or teacher_final.pth), which
only the pictures need; and the images that they are of. The configuration's paths count from the current directory, so
give the command where the run was started. Exit status 2 for a mistake in what was given.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.errors import InputError  # noqa: E402
from rc2l_d2.reporting import write_run_report  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR", help="folder of the run")
    parser.add_argument(
        "--baseline", type=Path, metavar="OUTPUT_DIR", help="folder of a run to compare with, on the same test data"
    )
    args = parser.parse_args()
    try:
        print(f"Report: {write_run_report(args.folder, args.baseline)}")
    except InputError as error:
        print(f"make_report.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

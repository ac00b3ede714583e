#!/usr/bin/env python3
"""``rc2l-check`` in a checkout, see ``--help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.commands.check import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

"""``rc2l-report`` in a checkout, see ``--help``."""

import sys

from rc2l_d2.commands.report import main

if __name__ == "__main__":
    sys.exit(main())

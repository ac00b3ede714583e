"""``rc2l-check`` in a checkout, see ``--help``."""

import sys

from rc2l_d2.commands.check import main

if __name__ == "__main__":
    sys.exit(main())

"""Segment images and videos: ``rc2l-predict`` in a checkout, see ``--help``.

python demo/demo.py --weights output/toy_rc2l/teacher_final.pth --input datasets/toy/JPEGImages --output output/seen
"""

import sys

from rc2l_d2.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())

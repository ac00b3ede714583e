#!/usr/bin/env python3
"""Draw the toy data set: a folder in Pascal VOC's layout with textured shapes (see rc2l_d2/data/toy/dataset.py).

With ``--own LABELED UNLABELED`` so many of its images as one's own pictures would lie: photos with labels in masks, and
more without, as docs/tutorial.md begins.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from rc2l_d2.data.toy.dataset import draw_own_images, draw_toy_dataset  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402


def main() -> int:
    """Draw what the command line asks for; 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    own = "write the folders photos, masks and more instead, into --root or the current folder"
    parser.add_argument(
        "--own", type=int, nargs=2, metavar=("LABELED", "UNLABELED"), default=argparse.SUPPRESS, help=own
    )
    root = "folder to write to (default: datasets/toy in the checkout)"
    parser.add_argument("--root", type=Path, default=argparse.SUPPRESS, help=root)
    parser.add_argument("--train", type=int, default=512, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=128, metavar="N", help="validation images")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96), metavar=("H", "W"), help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images")
    args = parser.parse_args()
    bar = partial(tqdm, desc="drawing", unit="image", disable=None)
    own = getattr(args, "own", None)
    root = getattr(args, "root", Path() if own else REPOSITORY / "datasets" / "toy")
    try:
        if own:
            draw_own_images(root, *own, tuple(args.size), args.seed)
            print(f"wrote {own[0]} images to {root / 'photos'}, their labels to masks, {own[1]} images to more")
            return 0
        drawn = draw_toy_dataset(root, args.train, args.val, tuple(args.size), args.seed, bar)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    done = "wrote" if drawn else "found, complete:"
    print(f"{done} {args.train} training and {args.val} validation images in {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

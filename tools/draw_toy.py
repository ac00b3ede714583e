"""Draw the toy data set: a folder in Pascal VOC's layout with textured shapes (see rc2l_d2/data/toy/dataset.py).

``--own LABELED UNLABELED`` draws that many landscapes instead (rc2l_d2/data/toy/landscape.py), in the layout of a
user's own images: photos with labels in masks, and more without labels, as docs/tutorial.md begins.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data.toy.dataset import draw_own_images, draw_toy_dataset
from rc2l_d2.data.toy.landscape import SEASONS, draw_landscape

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the command line; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = "draw landscapes into the folders photos, masks and more, in --root or the current folder"
    parser.add_argument("--own", type=int, nargs=2, metavar=("LABELED", "UNLABELED"), help=own)
    parser.add_argument("--root", type=Path, help="folder to write to (default: datasets/toy in the checkout)")
    parser.add_argument("--train", type=int, default=512, metavar="N", help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=128, metavar="N", help="validation images (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96), metavar=("H", "W"), help="pixels (96 96)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the images (%(default)s)")
    return run_cli(parser, draw)


def draw(args: argparse.Namespace) -> None:
    """Draw the toy data set, or the folders of ``--own``."""
    own, root = args.own, args.root or (Path() if args.own else REPOSITORY / "datasets" / "toy")
    if own:
        draw_own_images(root, *own, tuple(args.size), args.seed, draw_landscape)
        print(f"wrote {own[0]} images to {root / 'photos'}, their labels to masks, {own[1]} images to more")
        print(f"classes, from value 0 on: {','.join(SEASONS)}; 255 has no class")
        return
    bar = partial(tqdm, desc="drawing", unit="image", disable=None)
    drawn = draw_toy_dataset(root, args.train, args.val, tuple(args.size), args.seed, bar)
    done = "wrote" if drawn else "found, complete:"
    print(f"{done} {args.train} training and {args.val} validation images in {root}")


if __name__ == "__main__":
    sys.exit(main())

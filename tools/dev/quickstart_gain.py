"""What RC2L with quickstart's own settings gains over labels alone, on images of which training sees no label.

    python tools/dev/quickstart_gain.py landscapes FOLDER --labeled 20 --unlabeled 80 --size 64 --backbone resnet
    python tools/dev/quickstart_gain.py ../shared/msrc21 FOLDER --labeled 20 --unlabeled 250

The images are drawn (landscapes or shapes; 128 more of them for the test) or photographs of a folder in Pascal VOC's
layout: a random sample in which every class occurs is labelled, and all others of its train.txt and val.txt are for the
test. FOLDER gets photos, masks, more and the test's images, quickstart's files, and the runs rc2l and labels_alone;
finished runs are kept. Prints the mIoU of both teachers. The project has to be installed (pip install -e .).
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rc2l_d2 import load_segmenter
from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data.toy.dataset import Draw, draw_own_images
from rc2l_d2.data.toy.landscape import draw_landscape
from rc2l_d2.data.toy.scene import draw_scene
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import confusion_matrix, semantic_metrics

DRAWN: dict[str, Draw] = {"landscapes": draw_landscape, "shapes": draw_scene}
TEST_IMAGES, NO_CLASS = 128, 255


def draw(args: argparse.Namespace) -> None:
    """Draw the images of training and those of the test, which come after them."""
    train, size = args.labeled + args.unlabeled, (args.size, args.size)
    draw_own_images(args.folder / "all", train + TEST_IMAGES, 1, size, args.seed, DRAWN[args.source])
    for index in range(train + TEST_IMAGES):
        photo, mask = (
            args.folder / f"all/{part}/{index:05d}.{end}" for part, end in (("photos", "jpg"), ("masks", "png"))
        )
        _place(args.folder, photo, mask, index < args.labeled, index < train, index >= train)


def copy(args: argparse.Namespace) -> None:
    """Copy photographs."""
    root, rng = Path(args.source), np.random.default_rng(args.seed)
    if not (root / "ImageSets/Segmentation").is_dir():
        raise InputError(f"{root} holds no ImageSets/Segmentation; give {' or '.join(DRAWN)}, or a folder that does.")
    train, val = ((root / f"ImageSets/Segmentation/{split}.txt").read_text().split() for split in ("train", "val"))
    files = {name: (root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png") for name in train + val}
    present = {name: {*np.unique(Image.open(files[name][1])).tolist()} - {NO_CLASS} for name in train}
    classes, labeled = set().union(*present.values()), []
    while set().union(*(present[name] for name in labeled)) != classes:
        labeled = rng.permutation(train)[: args.labeled].tolist()
    others = [name for name in train if name not in labeled]
    for name in [*labeled, *others, *val]:
        _place(args.folder, *files[name], name in labeled, name in others[: args.unlabeled], name not in labeled)


def _place(folder: Path, photo: Path, mask: Path, labeled: bool, unlabeled: bool, tested: bool) -> None:
    parts = {"photos": labeled, "more": unlabeled and not labeled, "test/photos": tested}
    for part in [part for part, wanted in parts.items() if wanted]:
        for parent, file in ((part, photo), (part.replace("photos", "masks"), mask)):
            if part != "more" or file == photo:
                (folder / parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / parent)


def measure(folder: Path, weights: Path) -> float:
    """Return the mIoU of a model file on the test's images, in percent."""
    segmenter = load_segmenter(str(weights))
    names = segmenter.class_names  # "class7" is the value 7.
    index_of = torch.full((256,), NO_CLASS)
    for index, name in enumerate(names):
        index_of[int(name.removeprefix("class"))] = index
    counts = 0
    for mask in sorted((folder / "test/masks").iterdir()):
        truth = index_of[torch.from_numpy(np.array(Image.open(mask))).long()]
        predicted = torch.from_numpy(segmenter(str(folder / f"test/photos/{mask.stem}.jpg")).labels).long()
        counts = counts + confusion_matrix(predicted, truth, len(names), NO_CLASS)
    return semantic_metrics(counts, names)["mIoU"]


def compare(args: argparse.Namespace) -> None:
    """Make what is missing in the folder and print the two numbers."""

    def command(name: str, *arguments: object) -> None:
        words = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
        subprocess.run(words, cwd=args.folder, check=True, stdout=subprocess.DEVNULL)

    if not (args.folder / "test").exists():
        draw(args) if args.source in DRAWN else copy(args)
    if not (args.folder / "quickstart").exists():
        backbone = ["--backbone", args.backbone] if args.backbone else []
        command("rc2l-quickstart", "photos", "masks", "more", "--seed", args.seed, "--ignore", NO_CLASS, *backbone)
    for run, options in (("rc2l", ()), ("labels_alone", ("MODEL.META_ARCHITECTURE", "RegionSegmentor"))):
        if not (args.folder / run / "teacher_final.pth").exists():
            command("rc2l-train", "--config-file", "quickstart/train.yaml", *options, "OUTPUT_DIR", run)
        print(f"{run}: mIoU {measure(args.folder, args.folder / run / 'teacher_final.pth'):.1f}", flush=True)


def main() -> int:
    """Run the command line; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=f"{' or '.join(DRAWN)}, or a folder in Pascal VOC's layout")
    parser.add_argument("folder", type=Path, help="folder to write to, or to continue in")
    parser.add_argument("--labeled", type=int, required=True, help="labelled images, a fifth of which is held out")
    parser.add_argument("--unlabeled", type=int, required=True, help="unlabelled images")
    parser.add_argument("--size", type=int, default=64, help="height and width of drawn images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images, held-out part and training (%(default)s)")
    parser.add_argument("--backbone", help="as in rc2l-quickstart; resnet: random weights")
    return run_cli(parser, compare)


if __name__ == "__main__":
    sys.exit(main())

"""What RC2L with quickstart's own settings gains over labels alone, on images of which training sees no label.

    python tools/dev/quickstart_gain.py landscapes FOLDER --labeled 20 --unlabeled 80 --size 64 --backbone resnet
    python tools/dev/quickstart_gain.py datasets/msrc21 FOLDER --labeled 20 --unlabeled 250

The images are drawn (landscapes or shapes; 128 more of them for the test) or photographs of a folder in Pascal VOC's
layout: a random sample in which every class occurs is labelled, and all others of its train.txt and val.txt are for the
test. FOLDER gets photos, masks, more and the test's images, quickstart's files, and the runs rc2l and labels_alone;
finished runs are kept. Prints the mIoU of their teachers. The project has to be installed (pip install -e .).
"""

import argparse
import json
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
_FOLDERS = ("photos", "masks", "more", "test", "quickstart")
SAMPLES = 100_000  # tries to find one with every class


def draw(args: argparse.Namespace, folder: Path) -> None:
    """Draw the images into ``folder``: those of training, then those of the test."""
    train, size = args.labeled + args.unlabeled, (args.size, args.size)
    draw_own_images(folder, train + TEST_IMAGES, 1, size, args.seed, DRAWN[args.source])
    shutil.rmtree(folder / "more")
    for part, end in (("photos", "jpg"), ("masks", "png")):
        files = [folder / f"{part}/{index:05d}.{end}" for index in range(train + TEST_IMAGES)]
        if part == "photos":
            _into(folder / "more", files[args.labeled : train])
        _into(folder / f"test/{part}", files[train:])
        for file in files[args.labeled :]:
            file.unlink()


def copy(args: argparse.Namespace, folder: Path) -> None:
    """Copy photographs into ``folder``.

    Raises:
        InputError: the source is no such folder, or no sample has every class.
    """
    root, rng = Path(args.source), np.random.default_rng(args.seed)
    if not (root / "ImageSets/Segmentation").is_dir():
        raise InputError(f"{root} holds no ImageSets/Segmentation; give {' or '.join(DRAWN)}, or a folder that does.")
    train, val = ((root / f"ImageSets/Segmentation/{split}.txt").read_text().split() for split in ("train", "val"))
    photos = {name: root / f"JPEGImages/{name}.jpg" for name in [*train, *val]}
    masks = {name: root / f"SegmentationClass/{name}.png" for name in photos}
    present = {name: {*np.unique(Image.open(masks[name])).tolist()} - {NO_CLASS} for name in train}
    samples = (rng.permutation(train)[: args.labeled].tolist() for _ in range(SAMPLES))
    classes = set().union(*present.values())
    labeled = next((names for names in samples if set().union(*(present[name] for name in names)) == classes), None)
    if labeled is None:
        raise InputError(f"--labeled is {args.labeled}, too few for all {len(classes)} classes of {root}; give more.")
    others = [name for name in train if name not in labeled]
    for part, names in (("", labeled), ("test/", [*others, *val])):
        _into(folder / f"{part}photos", [photos[name] for name in names])
        _into(folder / f"{part}masks", [masks[name] for name in names])
    _into(folder / "more", [photos[name] for name in others[: args.unlabeled]])


def _into(folder: Path, files: list[Path]) -> None:
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)


def make_images(args: argparse.Namespace) -> None:
    """Make the images of FOLDER, as a whole or not at all.

    Raises:
        InputError: FOLDER has the images of other arguments.
    """
    wanted = json.dumps({name: getattr(args, name) for name in ("source", "labeled", "unlabeled", "size", "seed")})
    record = args.folder / "images.json"
    if args.folder.exists():
        if not record.is_file() or record.read_text() != wanted:
            raise InputError(f"{args.folder} is not a folder of these images; name another, or remove it.")
        return
    unfinished = args.folder.with_name(f"{args.folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    draw(args, unfinished) if args.source in DRAWN else copy(args, unfinished)
    (unfinished / record.name).write_text(wanted)
    unfinished.rename(args.folder)


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
        if status := subprocess.run(words, cwd=args.folder, stdout=subprocess.DEVNULL).returncode:
            raise InputError(f"{name} ended with status {status}; its message is above.")

    runs = [["rc2l"], ["labels_alone", "MODEL.META_ARCHITECTURE", "RegionSegmentor"], *args.also]
    names = [*_FOLDERS, *(name for name, *_ in runs)]
    if taken := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--also {taken[0]} is the name of a folder that is used already; give another.")
    make_images(args)
    if not (args.folder / "quickstart").exists():
        backbone = ["--backbone", args.backbone] if args.backbone else []
        command("rc2l-quickstart", "photos", "masks", "more", "--seed", args.seed, "--ignore", NO_CLASS, *backbone)
    for run, *options in runs:
        if not (args.folder / run / "teacher_final.pth").exists():
            command("rc2l-train", "--config-file", "quickstart/train.yaml", "--resume", *options, "OUTPUT_DIR", run)
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
    also = "another run of RC2L, the folder NAME, with other settings; may be repeated"
    parser.add_argument("--also", nargs="+", action="append", default=[], metavar=("NAME", "KEY VALUE"), help=also)
    return run_cli(parser, compare)


if __name__ == "__main__":
    sys.exit(main())

"""From folders of pictures to a data set's YAML file and a training configuration, ready to be used.

    python -m rc2l_d2.commands.quickstart IMAGES LABELS [UNLABELED] [--classes sky,road,...] [--output FOLDER]

IMAGES holds pictures, LABELS a label image for some of them (palette, one channel or colours; no JPEG), each with the
name of its picture, and UNLABELED more pictures; without it they are those in IMAGES that have no label. Writes
FOLDER/dataset.yaml, FOLDER/train.yaml and three lists, and says what to type next. A mistake in what was given is told
in one sentence, with exit status 2, and nothing is written.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tabulate import tabulate

from ..command_words import command_words
from ..data import read_image
from ..data.checks.check import remarks_on
from ..data.checks.scan import ScanReport, Split, scan
from ..data.datasets.image_lists import write_list
from ..data.datasets.sampling import sample_held_out
from ..data.labels.label_classes import IGNORE_VALUE, FoundClasses, name_classes, read_raw_labels
from ..data.labels.label_map import LabelMap
from ..data.labels.pairing import PairedImages, pair_images
from ..engine.starting_point import CPU, GPU, SMALLEST_ITERATIONS, Sizes, cpu_seconds, starting_config, usual_iterations
from ..engine.weights import read_weights, resnet_depth
from ..errors import InputError
from ..host import DatasetCatalog

# Part of the data set -> its list, below the output folder.
_LISTS = {"labeled": "labeled.txt", "val": "val.txt", "unlabeled": "unlabeled.txt"}
_DATASET, _CONFIG, _RUN = "dataset.yaml", "train.yaml", "run"
_UNLABELED_SAMPLE, _TIMED = 100, 5
_FEW_PICTURES = 5
_DATASET_HEAD = """\
# Written by rc2l-quickstart; datasets/README.md explains the keys. Images and their labels stand in the lists below.
# Names of classes and colours may be changed here.
"""
_CONFIG_HEAD = """\
# Written by rc2l-quickstart for {where}: settings to start from, not tuned on these pictures.{untried}
# rc2l_d2/config.py explains the keys. Those to look at first:
#   SOLVER.IMS_PER_PASS 2          where memory does not suffice: the same steps in smaller passes, slower
#   INPUT.RANDOM_FLIP none         where left and right mean something
#   INPUT.STRONG_JITTER, STRONG_GRAYSCALE   lower (the last of the four is hue) where colour tells classes apart
#   INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TEST, CROP.SIZE   larger for small things (--short-edge sets them all)
"""


def quickstart(args: argparse.Namespace) -> str:
    """Look at the folders and write the files; returns what to tell the user.

    Raises:
        InputError: what was given cannot work, or files are there already; nothing has been written then.
    """
    _check_options(args)
    depth = _backbone_depth(args.weights)
    pictures = pair_images(args.images, args.labels, args.unlabeled, args.label_suffix)
    _check_output(args)
    names = [name.strip() for name in args.classes.split(",")] if args.classes else []
    classes = name_classes(read_raw_labels(pictures.labels), names, args.labels)
    presence = classes.pixels > 0
    useful = np.flatnonzero(presence.any(axis=1))
    number = max(1, round(args.held_out * len(useful)))
    held_out = useful[sample_held_out(presence[useful], number, args.seed)]
    if not len(held_out):
        raise InputError(
            f"None of the {len(useful)} labelled images can be held out to measure by, as each is the only one with "
            f"some class; label more of them."
        )
    kept = np.setdiff1d(useful, held_out)
    reports, warnings = _checked(args, pictures, classes)

    machine = GPU if args.device == "cuda" else CPU
    sizes = Sizes.fitting([*(reports[0].sizes + reports[1].sizes).elements()], machine, args.short_edge)
    iterations = args.iterations or usual_iterations(machine, len(kept) + len(pictures.unlabeled))
    settings = starting_config(machine, sizes, len(classes.names), iterations, args.weights, depth)
    settings |= {"SEED": args.seed, "OUTPUT_DIR": _in(args.output, _RUN)}
    name = _dataset_name(args.output)
    for key, part in (("TRAIN", "labeled"), ("UNLABELED", "unlabeled"), ("TEST", "val")):
        settings[f"DATASETS.{key}"] = [f"{name}_{part}"]
    settings["DATASETS.DEFINITIONS"] = [_in(args.output, _DATASET)]
    counts = f"{len(kept)} labelled images to train on, {len(held_out)} held out, {len(pictures.unlabeled)} unlabelled."
    lines = [counts, "", _class_table(classes, kept, held_out), ""]
    lines += [f"Note: {note}" for note in [*_notes(pictures, classes, held_out, len(useful)), *warnings]]
    lines += [_schedule(args, sizes, settings, pictures, depth in (None, machine.depth)), "", _next(args)]
    _write(args, pictures, classes, {"labeled": kept, "val": held_out}, name, settings)
    return "\n".join(lines)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options out of their range."""
    for option, value, usable, expected in (
        ("--held-out", args.held_out, 0 < args.held_out < 1, "a number above 0 and below 1"),
        ("--seed", args.seed, 0 <= args.seed < 2**32, "a whole number from 0 to 4294967295"),
        ("--short-edge", args.short_edge, args.short_edge is None or args.short_edge >= 32, "32 or more pixels"),
        (
            "--iterations", args.iterations, args.iterations is None or args.iterations >= SMALLEST_ITERATIONS,
            f"{SMALLEST_ITERATIONS} or more",
        ),
    ):  # fmt: skip
        if not usable:
            raise InputError(f"{option} is {value}; give {expected}.")


def _check_output(args: argparse.Namespace) -> None:
    """Refuse an output folder in which something would be replaced."""
    there = [path for path in _files(args.output) if os.path.lexists(path)]
    if there and not args.overwrite:
        raise InputError(f"{there[0]} is there already; name another --output, or say --overwrite.")


def _backbone_depth(weights: str) -> int | None:
    if not weights:
        return None
    if not os.path.isfile(weights):
        raise InputError(f"--weights {weights} is not a file; correct the path.")
    depth = resnet_depth(read_weights(weights)["model"])
    if depth is None:
        raise InputError(
            f"--weights {weights} does not hold a ResNet of 18, 34, 50, 101 or 152 layers; "
            f"tools/convert_torchvision_weights.py makes such files of torchvision's."
        )
    return depth


def _checked(
    args: argparse.Namespace, pictures: PairedImages, classes: FoundClasses
) -> tuple[list[ScanReport], list[str]]:
    """Read all labelled images and a sample of the others; what was found in each of the two, and warnings.

    Raises:
        InputError: something would spoil training.
    """
    raw = classes.label_map()
    label_map = None if raw is None else LabelMap.from_yaml(raw, classes.names, classes.palette, IGNORE_VALUE)
    pairs = zip(pictures.images, pictures.labels, strict=True)
    labelled = [
        {"file_name": image, "image_id": image, "sem_seg_file_name": label, "label_map": label_map}
        for image, label in pairs
    ]
    unlabeled = [{"file_name": image, "image_id": image} for image in pictures.unlabeled]
    parts = (
        (Split(f"{args.images} with {args.labels}", labelled, True, classes.names, IGNORE_VALUE), None),
        (Split(args.unlabeled or args.images, unlabeled, False, classes.names, IGNORE_VALUE), _UNLABELED_SAMPLE),
    )
    reports, warnings = [], []
    for part, limit in parts:
        reports.append(scan(part, limit, args.seed))
        for remark in remarks_on(reports[-1]):
            if remark.fatal:
                raise InputError(str(remark))
            warnings.append(str(remark))
    return reports, warnings


def _write(
    args: argparse.Namespace,
    pictures: PairedImages,
    classes: FoundClasses,
    parts: dict[str, np.ndarray],
    name: str,
    settings: dict[str, Any],
) -> None:
    output = os.path.abspath(args.output)
    folders = [os.path.abspath(folder) for folder in (args.images, args.unlabeled or args.images)]
    try:
        # Lists and pictures lie below one root, which may be the file system's.
        root = os.path.commonpath([output, os.path.abspath(args.labels), *folders])
    except ValueError as error:
        raise InputError("The folders are on several drives; put them and --output on one.") from error
    definition: dict[str, Any] = {
        "name": name,
        "root": os.path.relpath(root, output),
        "images": os.path.relpath(os.path.commonpath(folders), root),
        "classes": list(classes.names),
    }
    label_map = classes.label_map()
    if label_map is not None:
        definition["label_map"] = label_map
    definition["palette"] = [list(color) for color in classes.palette]
    definition["ignore_value"] = IGNORE_VALUE
    definition["parts"] = {part: {"list": os.path.relpath(_in(output, file), root)} for part, file in _LISTS.items()}
    on_gpu = args.device == "cuda"
    untried = " This size has not been trained yet." if on_gpu else ""
    head = _CONFIG_HEAD.format(where="a GPU" if on_gpu else "the CPU", untried=untried)
    try:
        os.makedirs(output, exist_ok=True)
        for part, indices in parts.items():
            images, labels = (
                [os.path.relpath(files[index], root) for index in indices]
                for files in (pictures.images, pictures.labels)
            )
            write_list(Path(output, _LISTS[part]), images, labels)
        unlabeled = [os.path.relpath(path, root) for path in pictures.unlabeled]
        write_list(Path(output, _LISTS["unlabeled"]), unlabeled, [None] * len(unlabeled))
        Path(output, _DATASET).write_text(_DATASET_HEAD + _dump(definition), encoding="utf-8")
        Path(output, _CONFIG).write_text(head + _dump(_nested(settings)), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {args.output} cannot be written ({error.strerror}); name another.") from error


def _dump(content: dict) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"A.B": value} -> {"A": {"B": value}}"""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _dataset_name(output: str) -> str:
    name = re.sub(r"\W+", "_", os.path.basename(os.path.abspath(output))) or "own"
    taken = sorted({f"{name}_{part}" for part in _LISTS} & set(DatasetCatalog.list()))
    if taken:
        raise InputError(f"A data set is called {taken[0]} already; name another --output, the new one is called so.")
    return name


def _in(folder: str, file: str) -> str:
    return os.path.normpath(os.path.join(folder, file))


def _files(output: str) -> list[str]:
    return [_in(output, file) for file in (_DATASET, _CONFIG, *_LISTS.values())]


def _class_table(classes: FoundClasses, kept: np.ndarray, held_out: np.ndarray) -> str:
    pixels = classes.pixels[np.concatenate([kept, held_out])].sum(axis=0)
    rows = [
        [classes.key_text(key), name, *(int((classes.pixels[part, place] > 0).sum()) for part in (kept, held_out)),
         f"{100 * pixels[place] / pixels.sum():.2f}"]
        for place, (key, name) in enumerate(zip(classes.keys, classes.names, strict=True))
    ]  # fmt: skip
    rows += [[classes.key_text(key), "(no class)", "", "", ""] for key in classes.ignored]
    headers = ["colour" if classes.colors else "value", "class", "images", "held out", "% of pixels"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "left", "right", "right", "right"))


def _notes(pictures: PairedImages, classes: FoundClasses, held_out: np.ndarray, useful: int) -> list[str]:
    """What is not used, and what is scarce, a sentence each."""

    def some(count: int, what: str, one: str) -> str:
        return f"{count} {what}{'s' if count > 1 else ''} ({os.path.basename(one)}{', ...' if count > 1 else ''})"

    notes = []
    if pictures.without_label:
        found = some(len(pictures.without_label), "image", pictures.without_label[0])
        notes.append(f"{found} beside the labelled ones: without a label and not in UNLABELED, so not used.")
    if pictures.without_image:
        notes.append(f"{some(len(pictures.without_image), 'label', pictures.without_image[0])} without an image.")
    if pictures.copies:
        notes.append(f"Left out of the unlabelled images, as copies of labelled ones: {pictures.copies}.")
    if useful < len(pictures.labels):
        notes.append(f"Left out, as labels without a class on any pixel: {len(pictures.labels) - useful}.")
    if classes.left_out:
        notes.append(f"No label has {', '.join(classes.left_out)}: left out of the classes.")
    images, measured = ((classes.pixels[part] > 0).sum(axis=0) for part in (slice(None), held_out))
    if len(held_out) < _FEW_PICTURES:
        notes.append(
            f"Few images ({len(held_out)}) are held out, so what is measured is rough; a larger --held-out gives more, "
            f"and leaves fewer to learn from."
        )
    unseen = [name for name, count in zip(classes.names, measured, strict=True) if count == 0]
    if unseen:
        notes.append(f"No held-out image has {', '.join(unseen)}, which is thus not measured.")
    rare = [name for name, count in zip(classes.names, images, strict=True) if count < _FEW_PICTURES]
    if rare:
        notes.append(f"Fewer than {_FEW_PICTURES} labels have {', '.join(rare)}: more of these would help most.")
    return notes


def _schedule(
    args: argparse.Namespace, sizes: Sizes, settings: dict[str, Any], pictures: PairedImages, timed: bool
) -> str:
    """How large and how long the training will be; the time is said where such a training was timed."""
    height, width = sizes.crop
    text = (
        f"Written to {args.output}, for {'a GPU' if args.device == 'cuda' else 'the CPU'}: shortest edge "
        f"{sizes.short_edge} pixels, crops of {width}x{height}, {settings['SOLVER.MAX_ITER']} iterations."
    )
    if args.device == "cuda" or not timed:
        return f"{text}\nHow long they take was not measured for such a size; the log says what is left (eta)."
    files = pictures.images[:_TIMED]  # which have all been read by now
    start = time.thread_time()  # what else the machine does right now is not counted
    for file in files:
        read_image(file)
    reading = (time.thread_time() - start) / len(files)
    minutes, without = (cpu_seconds(settings, seconds) / 60 for seconds in (reading, 0.0))
    text += (
        f"\nOn the one core of an AMD EPYC where such steps were timed, with the time that reading takes here, they "
        f"would take about {math.ceil(minutes)} min, evaluations not counted; the log says what is left (eta)."
    )
    if minutes > 2 * without:
        text += (
            f"\nReading takes most of that ({1000 * reading:.0f} ms an image): copies with a shortest edge of "
            f"{2 * sizes.short_edge} pixels, of images and labels alike, would save nearly all of it."
        )
    return text


def _next(args: argparse.Namespace) -> str:
    check, train, predict = (shlex.join(command_words(name)) for name in ("check", "train", "predict"))
    config, run, seen = (shlex.quote(_in(args.output, name)) for name in (_CONFIG, _RUN, "pictures"))
    source = shlex.quote(args.unlabeled or args.images)
    rows = (
        ("check", f"{check} --config-file {config} --full"),
        ("train", f"{train} --config-file {config}"),
        ("look", f"tail -n 1 {run}/metrics.json          # or: tensorboard --logdir {run}"),
        ("predict", f"{predict} --weights {run}/teacher_final.pth --input {source} --output {seen} --labels"),
    )
    return "Next:\n" + "\n".join(f"  {what:8} {command}" for what, command in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command line asks for; 0, or 2 where it cannot be done."""
    called = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(
        prog="python -m rc2l_d2.commands.quickstart" if called == "quickstart.py" else called,
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("images", metavar="IMAGES", help="folder of pictures")
    parser.add_argument("labels", metavar="LABELS", help="folder of label images, with the pictures' names")
    parser.add_argument("unlabeled", metavar="UNLABELED", nargs="?", help="folder of pictures without labels")
    parser.add_argument("--output", default="quickstart", metavar="FOLDER", help="where to write (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that an earlier call wrote there")
    names = "names in the order of their values, with commas; 'ignore' for a value that is no class"
    parser.add_argument("--classes", default="", metavar="NAMES", help=names)
    suffix = "what a label's name has in place of the picture's suffix, as _mask.png"
    parser.add_argument("--label-suffix", default="", metavar="TEXT", help=suffix)
    parser.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="to measure by (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another draw of these (%(default)s)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help="to train on (here %(default)s)")
    parser.add_argument("--short-edge", type=int, metavar="PIXELS", help="of pictures as the model sees them")
    parser.add_argument("--iterations", type=int, metavar="N", help="of the training")
    weights = "a ResNet to start from (tools/convert_torchvision_weights.py); without it from scratch"
    parser.add_argument("--weights", default="", metavar="FILE", help=weights)
    args = parser.parse_args(arguments)
    try:
        print(quickstart(args))
    except InputError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

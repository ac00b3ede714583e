"""Write a data set's YAML file and a training configuration for folders of images and labels.

    rc2l-quickstart IMAGES LABELS [UNLABELED] [--classes sky,road,...] [--output FOLDER]

IMAGES holds images and LABELS label images for some of them (palette, one channel or colours; JPEG only with
--threshold), each with the name of its image but for --image-suffix and --label-suffix. LABELS may also be a COCO file
(.json) or an export of labelme, CVAT ("Segmentation mask"), Label Studio (PNG masks) or Roboflow (semantic masks);
their own class names are used. UNLABELED holds more images; without it the images of IMAGES that have no label are
used. Writes FOLDER/dataset.yaml, FOLDER/train.yaml and three lists, and prints the next commands. A user's mistake
ends the command with one sentence and exit status 2, and nothing is written.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tabulate import tabulate

from ..command_words import command_words
from ..config_files import model_names
from ..data.checks.check import remarks_on
from ..data.checks.leaks import leaks, with_held_out_apart
from ..data.checks.scan import ScanReport, Split, scan
from ..data.checks.small_regions import shrinking_regions
from ..data.datasets.image_lists import OTHER_SUFFIXES, list_text
from ..data.datasets.image_search import images_below
from ..data.datasets.sampling import split_held_out
from ..data.labels.class_names import may_be_none, parse_class_names, refuse_equal_names
from ..data.labels.found_labels import FoundLabels, find_annotations
from ..data.labels.label_classes import IGNORE_VALUE, FoundClasses, IgnoredKeys, name_classes, no_data_notes, read_masks
from ..data.labels.label_map import MAX_TOLERANCE
from ..data.labels.pairing import PairedImages, of_tests, pair_images
from ..data.labels.raw_labels import read_raw_labels
from ..data.labels.tabled_labels import find_table, read_tabled
from ..data.labels.tables_beside import names_beside
from ..data.loading.bands import BandRule
from ..engine.starting_point import (
    CPU,
    GPU,
    PACKAGED_BACKBONE,
    SMALLEST_ITERATIONS,
    Sizes,
    backbone_at_hand,
    check_pretrained,
    starting_config,
    use_channels,
    usual_iterations,
)
from ..errors import InputError
from ..host import DatasetCatalog
from .cli import run_cli

# Split -> its list, below the output folder.
_LISTS = {"labeled": "labeled.txt", "val": "val.txt", "unlabeled": "unlabeled.txt"}
_DATASET, _CONFIG, _RUN = "dataset.yaml", "train.yaml", "run"
_UNLABELED_SAMPLE = 100
_FEW = 5
_SHOWN_IGNORED = 20
_DATASET_HEAD = """\
# Written by rc2l-quickstart; datasets/README.md explains the keys. The lists below name the images and their labels.
# Names of classes and colours may be changed here.
"""
_CONFIG_HEAD = """\
# Written by rc2l-quickstart --device {device}: settings to start from, not tuned for these images.
# rc2l_d2/config.py explains the keys. Those to consider first:
#   SOLVER.IMS_PER_PASS 2          if memory is short: the same steps in smaller micro-batches, slower
#   INPUT.RANDOM_FLIP none         if left and right differ in meaning
#   INPUT.STRONG_JITTER, STRONG_GRAYSCALE   lower (the last of the four is hue) if colour tells classes apart
#   INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TEST, CROP.SIZE   larger for small objects (--short-edge sets them all)
"""


def quickstart(args: argparse.Namespace) -> None:
    """Check the folders, write the files and print a summary.

    Raises:
        InputError: an option or a file cannot be used, or an output file exists; nothing has been written.
    """
    _check_options(args)
    chosen = bool(args.backbone or args.weights)
    pretrained = check_pretrained(args.backbone, args.weights)
    for file in (_DATASET, _CONFIG, *_LISTS.values()):
        if not args.overwrite and os.path.lexists(_in(args.output, file)):
            raise InputError(f"{_in(args.output, file)} is there already; name another --output, or give --overwrite.")
    annotations = find_annotations(
        args.images, args.labels, args.unlabeled, args.label_suffix, args.outside, args.empty == "labelled"
    )
    if annotations is not None:
        _refuse_value_options(args, "image_suffix")
        images, classes = annotations.images, annotations.classes
    else:
        images, classes = _label_images(args)
    refuse_equal_names(classes.names)
    kept, held_out = split_held_out(images.images, classes.pixels > 0, args.held_out, args.seed)
    rule = BandRule.from_options(args.bands, args.range)
    bands = rule and rule.resolved([*images.images, *images.unlabeled])
    reports, warnings = _check_files(args, images, classes, annotations, bands)
    warnings += map(str, leaks(with_held_out_apart(reports, [images.images[index] for index in held_out])))
    warnings += annotations.notes if annotations is not None else ()
    if not chosen and (bands is None or bands.channels <= 3):  # Frozen, it could not learn what more bands mean.
        pretrained = backbone_at_hand()
    warnings += [pretrained.note] if pretrained.note else []

    machine = GPU if args.device == "cuda" else CPU
    sizes = Sizes.fitting([*(reports[0].sizes + reports[1].sizes).elements()], machine, args.short_edge)
    iterations = args.iterations or usual_iterations(machine, len(kept) + len(images.unlabeled))
    name = _dataset_name(args.output)
    streams = {"TRAIN": [f"{name}_labeled"], "UNLABELED": [f"{name}_unlabeled"], "TEST": [f"{name}_val"]}
    config = starting_config(machine, sizes, len(classes.names), iterations, pretrained)
    use_channels(config, bands.channels if bands is not None else 3, pretrained)
    config |= {"SEED": args.seed, "OUTPUT_DIR": _in(args.output, _RUN)}
    config["DATASETS"] = {**streams, "DEFINITIONS": [_in(args.output, _DATASET)]}
    _write(args, images, classes, annotations, bands, {"labeled": kept, "val": held_out}, config)
    print(f"{len(kept)} labelled images to train on, {len(held_out)} held out, {len(images.unlabeled)} unlabelled.\n")
    if rule and bands and rule.percentiles:
        print(f"--range {args.range} of the images is {bands.keys()['range']}.\n")
    print(_class_table(classes, kept, held_out), end="\n\n")
    labelled, classes_of = reports[0].split.entries, classes.names
    if note := shrinking_regions(labelled, classes_of, round(5 / 3 * sizes.short_edge), round(5 / 3 * sizes.long_edge)):
        warnings.append(note)
    folders = [os.path.abspath(folder) for folder in (args.images, args.unlabeled) if folder]
    if tests := of_tests(images.unlabeled, folders[-1]):
        found = f"Unlabelled images in folders of tests: {_few(tests)}"
        warnings.append(f"{found}; if results are measured on them, name another folder as UNLABELED.")
    others = {path for folder in folders for path in images_below(folder, OTHER_SUFFIXES)} - {*images.labels}
    if others:
        warnings.append(
            f"Files not used, of a format that data sets do not have: {_few(sorted(others))}; convert them."
        )
    if (run := Path(args.output, _RUN)).exists():
        warnings.append(f"{run} holds a training, which rc2l-train does not replace; move or delete it.")
    for note in [*_notes(images, classes, kept, held_out), *warnings]:
        print(f"Note: {note}")
    crop = f"{sizes.crop[1]}x{sizes.crop[0]}"
    tested = config["INPUT"]["MIN_SIZE_TEST"]
    tested = "" if tested in (0, sizes.short_edge) else f" (tested at {tested})"
    settings = f"short edge {sizes.short_edge} pixels{tested}, crops of {crop}, {iterations} iterations"
    print(f"Written to {args.output}, for --device {args.device}: {settings}.\n\n{_next(args)}")


def _label_images(args: argparse.Namespace) -> tuple[PairedImages, FoundClasses]:
    """Pair images and label images, and name their values: by the export's own table, or as the options say."""
    if args.outside or args.empty != "unlabelled":
        raise InputError(f"--outside and --empty are for annotations, not label images ({args.labels}); leave them.")
    tabled = find_table(args.labels) if not args.label_suffix else None
    if tabled is not None:
        _refuse_value_options(args)
        images = pair_images(args.images, tabled.folder, args.unlabeled, tabled.suffix, None, args.image_suffix)
        return images, read_tabled(images.labels, tabled)
    images = pair_images(args.images, args.labels, args.unlabeled, args.label_suffix, None, args.image_suffix)
    names = parse_class_names(args.classes)
    if args.threshold is not None:
        # A whole number is written as one.
        args.threshold = int(args.threshold) if args.threshold.is_integer() else args.threshold
        classes, notes = read_masks(images.labels, args.threshold, names, args.labels), ()
    else:
        raw, names, notes = names_beside(read_raw_labels(images.labels), images.labels, args.labels, names)
        classes = name_classes(raw, names, args.labels, IgnoredKeys.parse(args.ignore), args.tolerance)
        notes = (*raw.notes, *notes)
    return images, replace(classes, notes=(*notes, *classes.notes, *no_data_notes(images.labels, classes)))


def _refuse_value_options(args: argparse.Namespace, *more: str) -> None:
    for name in ("classes", "threshold", "ignore", "tolerance", *more):
        if getattr(args, name):
            reason = "names its images itself" if name in more else "names its classes itself"
            raise InputError(f"{args.labels} {reason}; leave --{name.replace('_', '-')} out.")


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options out of their range."""
    for name, usable, expected in (
        ("held_out", lambda value: 0 < value < 1, "a number above 0 and below 1"),
        ("seed", lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
        ("short_edge", lambda value: value is None or value >= 32, "32 or more pixels"),
        ("threshold", lambda value: value is None or 0 < value <= 65535, "a number above 0, as 128"),
        ("tolerance", lambda value: 0 <= value <= MAX_TOLERANCE, f"levels from 0 to {MAX_TOLERANCE}"),
        ("iterations", lambda value: value is None or value >= SMALLEST_ITERATIONS, f"{SMALLEST_ITERATIONS} or more"),
    ):
        if not usable(getattr(args, name)):
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give {expected}.")
    if args.threshold is not None and (args.ignore or args.tolerance):
        raise InputError("--threshold gives every pixel a class; leave --ignore and --tolerance out.")


def _check_files(
    args: argparse.Namespace,
    images: PairedImages,
    classes: FoundClasses,
    annotations: FoundLabels | None,
    bands: BandRule | None,
) -> tuple[list[ScanReport], list[str]]:
    """Read all labelled images and a sample of the others; return a report on each, and warnings."""
    maps = annotations.drawn if annotations is not None else [classes.read_map()] * len(images.images)
    labelled = [
        {"file_name": image, "image_id": image, "sem_seg_file_name": label, "label_map": label_map}
        for image, label, label_map in zip(images.images, images.labels, maps, strict=True)
    ]
    unlabeled: list[dict] = [{"file_name": image, "image_id": image} for image in images.unlabeled]
    for entry in [*labelled, *unlabeled] if bands is not None else ():
        entry["bands"] = bands
    splits = (
        (Split(f"{args.images} with {args.labels}", labelled, True, classes.names, IGNORE_VALUE), None),
        (Split(args.unlabeled or args.images, unlabeled, False, classes.names, IGNORE_VALUE), _UNLABELED_SAMPLE),
    )
    reports, warnings = [], []
    for split, limit in splits:
        reports.append(scan(split, limit, args.seed))
        for remark in remarks_on(reports[-1]):
            if remark.fatal:
                raise InputError(str(remark))
            warnings.append(str(remark))
    return reports, warnings


def _write(
    args: argparse.Namespace,
    images: PairedImages,
    classes: FoundClasses,
    annotations: FoundLabels | None,
    bands: BandRule | None,
    splits: dict[str, np.ndarray],
    config: dict,
) -> None:
    output, labels, *folders = map(
        os.path.abspath, (args.output, args.labels, args.images, args.unlabeled or args.images)
    )
    # Paths of lists and images are relative to a common root, which may be "/".
    root = os.path.commonpath([output, labels, *folders])

    def relative(paths: Sequence[str]) -> list[str]:
        return [os.path.relpath(path, root) for path in paths]

    keys, listed = classes.label_keys() | images.suffix_keys(args.image_suffix), relative(images.labels)
    if annotations is not None:
        keys, listed = {"labels": annotations.rule_below(root, os.path.commonpath(folders))}, [None] * len(listed)
    definition: dict[str, Any] = {
        "name": _dataset_name(args.output),
        "root": os.path.relpath(root, output),
        "images": os.path.relpath(os.path.commonpath(folders), root),
        "classes": list(classes.names),
        **(bands.keys() if bands is not None else {}),
        **keys,
        "palette": [list(color) for color in classes.palette],
        "ignore_value": IGNORE_VALUE,
        "parts": {split: {"list": os.path.relpath(_in(output, file), root)} for split, file in _LISTS.items()},
    }
    texts = {}
    for split, indices in splits.items():
        texts[_LISTS[split]] = list_text(relative([images.images[i] for i in indices]), [listed[i] for i in indices])
    texts[_LISTS["unlabeled"]] = list_text(relative(images.unlabeled), [None] * len(images.unlabeled))
    for file, head, content in (
        (_DATASET, _DATASET_HEAD, definition),
        (_CONFIG, _CONFIG_HEAD.format(device=args.device), config),
    ):
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
        texts[file] = (head + text).encode()
    try:
        os.makedirs(output, exist_ok=True)
        for file, content in texts.items():  # None, or all but for a full disk.
            Path(output, file).write_bytes(content)
    except OSError as error:
        raise InputError(f"--output {args.output} cannot be written ({error.strerror}); name another.") from error


def _dataset_name(output: str) -> str:
    name = re.sub(r"\W+", "_", os.path.basename(os.path.abspath(output))) or "own"
    taken = sorted({f"{name}_{split}" for split in _LISTS} & set(DatasetCatalog.list()))
    if taken:
        raise InputError(f"A data set is called {taken[0]} already; give --output another last folder.")
    return name


def _in(folder: str, file: str) -> str:
    return os.path.normpath(os.path.join(folder, file))


def _class_table(classes: FoundClasses, kept: np.ndarray, held_out: np.ndarray) -> str:
    pixels = classes.pixels[np.concatenate([kept, held_out])].sum(axis=0)
    counts = [(classes.pixels[indices] > 0).sum(axis=0) for indices in (kept, held_out)]
    rows = [
        [classes.key_text(key), name, *row, f"{100 * count / pixels.sum():.2f}"]
        for key, name, *row, count in zip(classes.keys, classes.names, *counts, pixels, strict=True)
    ]
    rows += [
        [classes.key_text(key), "(no class)", "", "", f"{count} pixels"]
        for key, count in sorted(classes.ignored_pixels.items(), key=lambda item: -item[1])[:_SHOWN_IGNORED]
    ]
    headers = ["colour" if classes.colors else "value", "class", "images", "held out", "% of pixels"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "left", "right", "right", "right"))


def _notes(images: PairedImages, classes: FoundClasses, kept: np.ndarray, held_out: np.ndarray) -> list[str]:
    """Return a sentence on each kind of unused file and scarce class."""

    def names(condition: np.ndarray) -> str:
        return ", ".join(np.array(classes.names)[condition])

    presence = classes.pixels > 0
    empty = len(presence) - len(kept) - len(held_out)
    unseen = names(~presence[held_out].any(axis=0))
    rare = names(presence.sum(axis=0) < _FEW)
    without_label, without_image = images.without_label, images.without_image
    guessed = ", ".join(f"{classes.key_text(key)} ({classes.ignored_pixels[key]} pixels)" for key in classes.guessed)
    doubtful = ", ".join(filter(may_be_none, classes.names))
    notes = (
        (doubtful, f"Learned as classes, but by their names they may be none: {doubtful}; if so, give --ignore."),
        (guessed, f"Taken for 'no class', as in Pascal VOC: {guessed}; give --ignore or a name to be sure."),
        (without_label, f"Images not used, without a label and not in UNLABELED: {_few(without_label)}."),
        (without_image, f"Labels without an image: {_few(without_image)}."),
        (images.copies, f"Unlabelled images not used, as copies of labelled ones: {images.copies}."),
        (images.derived, f"Images not used, as they are labels or made from labelled images: {_few(images.derived)}."),
        (
            images.companions,
            f"Used as unlabelled images, though most labelled images have a file with such an ending: "
            f"{_few(images.companions)}; if they were made from those, name another folder as UNLABELED.",
        ),
        (empty, f"Labels not used, as no pixel has a class: {empty}."),
        (classes.left_out, f"Classes not used, as no label has them: {', '.join(classes.left_out)}."),
        (len(held_out) < _FEW, f"Only {len(held_out)} held-out images: metrics will be rough; raise --held-out."),
        (unseen, f"Classes in no held-out image, without a metric: {unseen}."),
        (rare, f"Classes in fewer than {_FEW} labels, where more labels would help most: {rare}."),
    )
    return [*classes.notes, *(text for condition, text in notes if condition)]


def _few(files: Sequence[str]) -> str:
    """Return number and first names of the files."""
    return f"{len(files)} ({', '.join(map(os.path.basename, files[:_FEW]))})"


def _next(args: argparse.Namespace) -> str:
    check, train, predict = (shlex.join(command_words(name)) for name in ("check", "train", "predict"))
    config, run, predictions = (shlex.quote(_in(args.output, name)) for name in (_CONFIG, _RUN, "predictions"))
    source = shlex.quote(args.unlabeled or args.images)
    return f"""Next:
  check    {check} --config-file {config} --full
  train    {train} --config-file {config}
  watch    tail -n 1 {run}/metrics.json          # or: tensorboard --logdir {run}
  predict  {predict} --weights {run}/teacher_final.pth --input {source} --output {predictions} --labels"""


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="IMAGES", help="folder of images")
    labels = "folder of label images, with the names of the images; or a COCO file, or a labelling tool's export"
    parser.add_argument("labels", metavar="LABELS", help=labels)
    parser.add_argument("unlabeled", metavar="UNLABELED", nargs="?", help="folder of images without labels")
    parser.add_argument("--output", default="quickstart", metavar="FOLDER", help="output folder (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier call")
    names = "names of the values 0, 1, 2, ..., or VALUE=NAME,... ('#804080=road,...' for colours; ignore: no class)"
    parser.add_argument("--classes", default="", metavar="NAMES", help=names)
    suffix = "end of a label's name instead of the image's suffix, as _mask.png"
    parser.add_argument("--label-suffix", default="", metavar="TEXT", help=suffix)
    ending = "end of an image's name that its label's does not have, as _sat.jpg"
    parser.add_argument("--image-suffix", default="", metavar="TEXT", help=ending)
    outside = "class of the pixels in no annotation, or ignore (background; of panoptic segments ignore)"
    parser.add_argument("--outside", default="", metavar="CLASS", help=outside)
    empty = "what images are that a COCO file lists without an annotation (%(default)s)"
    parser.add_argument("--empty", choices=("unlabelled", "labelled"), default="unlabelled", help=empty)
    threshold = "masks of one object: values of N and more are the object (128 for 0 and 255, 1 for 0 and 1)"
    parser.add_argument("--threshold", type=float, metavar="N", help=threshold)
    ignore = "values or colours of no class, as 255 or '#e0e0c0', or other: all without a name in --classes"
    parser.add_argument("--ignore", default="", metavar="VALUES", help=ignore)
    tolerance = "values or colours that are at most N levels off count as the nearest class (%(default)s)"
    parser.add_argument("--tolerance", type=int, default=0, metavar="N", help=tolerance)
    bands = "bands of the images, from 1: red, green and blue, then any others, as 4,3,2 (needs rc2l_d2[raster])"
    parser.add_argument("--bands", default="", metavar="N,N,N", help=bands)
    range_ = "values that become 0 to 255, as 0,3000, or percentiles of all images, as 2%%,98%%"
    parser.add_argument("--range", default="", metavar="LOW,HIGH", help=range_)
    fraction = "validation fraction of the labelled images (%(default)s)"
    parser.add_argument("--held-out", type=float, default=0.2, metavar="FRACTION", help=fraction)
    parser.add_argument("--seed", type=int, default=0, help="seed of validation split and training (%(default)s)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help="training device (here %(default)s)")
    parser.add_argument("--short-edge", type=int, metavar="PIXELS", help="shorter edge of the smallest training images")
    parser.add_argument("--iterations", type=int, metavar="N", help="number of training iterations")
    backbone = "pretrained model of timm, whose weights come from --weights or timm's hub; or resnet (default: "
    backbone += f"{PACKAGED_BACKBONE[0]} if its weights are installed, else a ResNet from random weights)"
    parser.add_argument("--backbone", default="", metavar="NAME", help=backbone)
    weights = "weights of --backbone or of a ResNet, a model file (teacher_final.pth), or one of the models "
    weights += ", ".join(model_names())
    parser.add_argument("--weights", default="", metavar="FILE", help=weights)
    return run_cli(parser, quickstart)

"""Read the files of a split and count what is wrong with them, and which classes its labels hold."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from ...errors import InputError, first_few
from ..labels.drawn import DrawnLabel
from ..loading.plain import stores_one_bit
from ..loading.raster import large_image_size, large_label_counts
from ..loading.reading import (
    ImageDepthError,
    LabelColorError,
    LabelLossyError,
    LabelValueError,
    exif_orientation,
    read_image,
    read_label,
    read_palette,
    turned_by_exif,
)

SMALLEST_SIDE = 32
_MOST = 0.95  # of the values of an image at the ends of its range
_EXAMPLES = 10
_CHUNK, _BLOCK = 8, 4096  # Files per task; files whose results may wait in memory.
_THREADS = 8


class Kind(Enum):
    """A kind of problem: its title (after a number of files), the advice, and whether it spoils training."""

    IMAGE_UNREADABLE = ("images that cannot be read", "replace them or take them out of the data set", True)
    IMAGE_DEEP = ("images that are not plain 8-bit colour", ImageDepthError.advice, True)
    LABEL_MISSING = ("images without a label file", "complete the labels or name the images as unlabelled", True)
    LABEL_UNREADABLE = ("labels that cannot be read", "replace them with whole PNG files", True)
    LABEL_LOSSY = (
        "labels in a format that changes values",
        "save labels as PNG, or give 'threshold: 128' if they are masks of one object",
        True,
    )
    LABEL_COLORS = (
        "labels with colours where class indices are expected",
        "list the colours in the key label_map of the data set's YAML file, or save labels with one channel",
        True,
    )
    VALUES_OUTSIDE = (
        "labels with values that are no class",
        "correct the files, or classes, ignore_value and label_map in the data set's YAML file",
        True,
    )
    ONE_BIT = (
        "labels of 1 bit in a data set of more than two classes, of which 1 may be white, 255",
        "save them with 8 bits and the values that are meant",
        True,
    )
    PALETTES_DIFFER = (
        "labels whose palettes have other colours than others for the same values",
        "if the colours are the classes, set 'label_map: palette' in the data set's YAML file",
        False,
    )
    SIZES_DIFFER = ("labels of another size than their images", "give both the same size", True)
    TURNED = (
        "labels without the EXIF orientation of their images",
        "look at some with rc2l-predict --compare; where they were drawn on images that were not turned, turn them or "
        "take the orientation out of the images",
        False,
    )
    ALL_IGNORED = (
        "labels with the ignore value on every pixel", "complete them or leave them out: they teach nothing", False
    )  # fmt: skip
    OUT_OF_RANGE = (
        "images that are black or white nearly everywhere after the key range",
        "correct range in the data set's YAML file (--range) unless they are mostly empty",
        False,
    )
    TINY = (f"images with a side below {SMALLEST_SIDE} pixels", "leave them out if they are icons", False)

    def __init__(self, title: str, advice: str, fatal: bool):
        self.title, self.advice, self.fatal = title, advice, fatal


@dataclass(frozen=True)
class Split:
    """Images that are checked together."""

    name: str  # in messages
    entries: Sequence[dict]
    labelled: bool  # whether each image needs its label
    classes: tuple[str, ...]
    ignore_value: int  # the label value of pixels without a class
    for_training: bool = False  # whether a model may learn from its labels
    ignore_stated: bool = True  # whether the data set's description gives the ignore value, which is else a default
    held_out: bool = False  # whether results are measured on these images


class _FileScan(NamedTuple):
    file: str
    size: tuple[int, int] | None  # (h, w) of the image, None where it cannot be read.
    problems: list[tuple[Kind, str, str]]  # kind, file, detail
    counts: np.ndarray | None  # (256,) pixels of each value of a label that fits.
    label: str = ""  # its file
    is_mapped: bool = False  # whether a label map gave these values
    fingerprint: bytes = b""  # see leaks.py; empty where the image cannot be read
    palette: dict[int, tuple[int, ...]] = {}  # colours of the label's values, where it has some and no map


@dataclass
class ScanReport:
    """Problems and class frequencies in the files that were read."""

    split: Split
    scanned: int = 0  # images read
    labels: int = 0  # labels that fit their images and the classes; the next three count them alone
    pixels: np.ndarray = field(init=False)  # (K,) int64, pixels of each class
    ignored: int = 0  # pixels with the ignore value
    guessed: int = 0  # those of them that only the default of the ignore value says to ignore
    images_with: np.ndarray = field(init=False)  # (K,) int64, labels that have each class
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # number of images of each size (h, w)
    problems: Counter[Kind] = field(default_factory=Counter)  # number of files with each kind of problem
    # The first ten of these files, in the order of the list, and what is wrong with each, "" for nothing more.
    examples: defaultdict[Kind, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    fingerprints: dict[str, bytes] = field(default_factory=dict)  # of the images that can be read
    palette: dict[int, tuple[int, ...]] = field(default_factory=dict)  # the first colour of each value
    seconds: float = 0.0

    def __post_init__(self):
        self.pixels = np.zeros(len(self.split.classes), np.int64)
        self.images_with = np.zeros_like(self.pixels)

    @property
    def complete(self) -> bool:
        """Whether every image of the split was read."""
        return self.scanned == len(self.split.entries)

    @property
    def absent(self) -> list[str]:
        """The classes that no label has, of those read."""
        names = zip(self.split.classes, self.images_with, strict=True)
        return [name for name, images in names if not images] if self.split.labelled else []

    def add(self, scan: _FileScan) -> None:
        """Add the result of one image."""
        self.scanned += 1
        if scan.fingerprint:
            self.fingerprints[scan.file] = scan.fingerprint
        if scan.size is not None:
            self.sizes[scan.size] += 1
        other = [value for value, color in scan.palette.items() if self.palette.setdefault(value, color) != color]
        differ = [(Kind.PALETTES_DIFFER, scan.label, f"value {other[0]}")] if other else []
        for kind, file, detail in [*scan.problems, *differ]:
            self.problems[kind] += 1
            if len(self.examples[kind]) < _EXAMPLES:
                self.examples[kind].append((file, detail))
        if scan.counts is not None:
            pixels = scan.counts[: len(self.pixels)]
            self.labels += 1
            self.pixels += pixels
            ignored = int(scan.counts[self.split.ignore_value])
            self.ignored += ignored
            self.guessed += 0 if scan.is_mapped or self.split.ignore_stated else ignored
            self.images_with += pixels > 0


def scan(
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    processes: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> ScanReport:
    """Read the files of a split.

    Args:
        limit: at most this many entries, sampled with ``seed`` and read in the order of the list; None reads all.
        seed: of the sample.
        processes: number of reading processes; 0 reads with threads of this process, enough for a sample.
        progress: called after each image.

    Raises:
        InputError: a reading process died.
    """
    start = time.perf_counter()
    report = ScanReport(split)
    indices: Sequence[int] = range(len(split.entries))
    if limit is not None and len(indices) > limit:
        indices = np.sort(np.random.default_rng(seed).choice(len(indices), limit, replace=False)).tolist()
    shared = {"num_classes": len(split.classes), "ignore_value": split.ignore_value}
    read = partial(_scan_entry, labelled=split.labelled, **shared)
    try:
        # Decoding releases the interpreter lock, counting labels does not.
        with ProcessPoolExecutor(processes) if processes else ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(indices), _BLOCK):
                block = [split.entries[index] for index in indices[first : first + _BLOCK]]
                for result in pool.map(read, block, chunksize=_CHUNK):
                    report.add(result)
                    progress()
    except BrokenProcessPool as error:
        raise InputError(
            f"A process that was reading images died, after {report.scanned} of {len(indices)} images; it may have run "
            f"out of memory: use fewer workers."
        ) from error
    report.seconds = time.perf_counter() - start
    return report


def _scan_entry(entry: dict, labelled: bool, num_classes: int, ignore_value: int) -> _FileScan:
    file, size, problems, counts, printed = entry["file_name"], None, [], None, b""
    rule = entry.get("bands")
    label, palette, is_mapped = entry.get("sem_seg_file_name") or "", {}, entry.get("label_map") is not None
    try:
        size = large_image_size(file, rule)
        if size is None:
            image = read_image(file, rule=rule)
            size, printed = image.shape[:2], fingerprint(image)
            ends = ((image == 0) | (image == 255)).mean() if rule and rule.ranges else 0.0
            if ends > _MOST:
                problems.append((Kind.OUT_OF_RANGE, file, f"{ends:.0%} of the values"))
        if min(size) < SMALLEST_SIDE:
            problems.append((Kind.TINY, file, f"{size[1]}x{size[0]}"))
    except InputError as error:
        kind = Kind.IMAGE_DEEP if isinstance(error, ImageDepthError) else Kind.IMAGE_UNREADABLE
        problems.append((kind, file, _detail(error, file)))
    if labelled:
        counts = _label_counts(entry, size, num_classes, ignore_value)
        if not isinstance(counts, np.ndarray):
            problems.append(counts)
            counts = None
        elif not counts[:num_classes].any():
            problems.append((Kind.ALL_IGNORED, _label_name(entry), ""))
        else:
            problems += _turned(entry, size)
        if counts is not None and not isinstance(entry.get("label_map"), DrawnLabel):
            if num_classes > 2 and counts[1] and not is_mapped and stores_one_bit(label):
                problems.append((Kind.ONE_BIT, label, ""))
            colors = None if is_mapped else read_palette(label)
            values = np.flatnonzero(counts[: len(colors)]).tolist() if colors is not None else []
            palette = {value: tuple(colors[value].tolist()) for value in values if value != ignore_value}
    return _FileScan(file, size, problems, counts, label, is_mapped, printed, palette)


def fingerprint(image: np.ndarray) -> bytes:
    """Return the image, uint8 (H, W, C), as 32 x 32 grey levels: it hardly changes with size and encoding."""
    # Encoding changes colours more than brightness.
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.shape[2] == 3 else image.mean(axis=-1)
    return cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).round().astype(np.uint8).tobytes()


def _turned(entry: dict, size: tuple[int, int] | None) -> list[tuple[Kind, str, str]]:
    """A problem if only the image has an EXIF orientation and sizes do not tell whether the label fits it."""
    # A label of the upright size of an image that EXIF turns by 90 degrees was made for the upright image.
    turned = turned_by_exif(entry["file_name"], entry["sem_seg_file_name"])
    sideways = size is not None and size[0] != size[1] and exif_orientation(entry["file_name"]) > 4
    return [(Kind.TURNED, _label_name(entry), turned)] if turned and not sideways else []


def _label_counts(
    entry: dict, size: tuple[int, int] | None, num_classes: int, ignore_value: int
) -> np.ndarray | tuple[Kind, str, str]:
    """Count the pixels (256,) of each value of a label that fits; return the problem of another label."""
    file = entry.get("sem_seg_file_name")
    if file is None:
        return Kind.LABEL_MISSING, entry["file_name"], ""
    try:
        large = large_label_counts(file, entry.get("label_map"))
        label = None if large else read_label(file, entry.get("label_map"))
    except InputError as error:
        kinds = {
            LabelColorError: Kind.LABEL_COLORS,
            LabelValueError: Kind.VALUES_OUTSIDE,
            LabelLossyError: Kind.LABEL_LOSSY,
        }
        return kinds.get(type(error), Kind.LABEL_UNREADABLE), file, _detail(error, file)
    counts, shape = large or (np.bincount(label.ravel(), minlength=256), label.shape)
    if size is not None and shape != size:
        turned = turned_by_exif(entry["file_name"], file)
        sizes = f"label {shape[1]}x{shape[0]}, image {size[1]}x{size[0]}"
        return Kind.SIZES_DIFFER, _label_name(entry), f"{sizes}; {turned}" if turned else sizes
    outside = [value for value in np.flatnonzero(counts) if value >= num_classes and value != ignore_value]
    if outside:
        return Kind.VALUES_OUTSIDE, file, first_few(outside, 5)
    return counts


def _label_name(entry: dict) -> str:
    """The label's file; with the image's name if the file may hold the annotations of several."""
    name, image = entry["sem_seg_file_name"], os.path.basename(entry["file_name"])
    return f"{name}, image {image}" if isinstance(entry.get("label_map"), DrawnLabel) else name


def _detail(error: InputError, file: str) -> str:
    """Return an error without the file's name and the advice."""
    if isinstance(error, ImageDepthError):
        return error.kind
    return str(error).removeprefix(f"{file}: ").split("; ")[0].removesuffix(".")

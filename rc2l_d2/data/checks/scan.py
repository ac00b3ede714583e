"""Read the files of a split and count what is wrong with them, and which classes its labels hold."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import NamedTuple

import numpy as np

from ...errors import InputError, first_few
from ..loading.raster import large_image_size, large_label_counts
from ..loading.reading import LabelColorError, LabelValueError, read_image, read_label

SMALLEST_SIDE = 32
_EXAMPLES = 10
_CHUNK, _BLOCK = 8, 4096  # Files per task; files whose results may wait in memory.
_THREADS = 8


class Kind(Enum):
    """A kind of problem: its title (after a number of files), the advice, and whether it spoils training."""

    IMAGE_UNREADABLE = ("images that cannot be read", "replace them or take them out of the data set", True)
    LABEL_MISSING = ("images without a label file", "complete the labels or name the images as unlabelled", True)
    LABEL_UNREADABLE = ("labels that cannot be read", "replace them with whole PNG files", True)
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
    SIZES_DIFFER = ("labels of another size than their images", "give both the same size", True)
    ALL_IGNORED = (
        "labels with the ignore value on every pixel", "complete them or leave them out: they teach nothing", False
    )  # fmt: skip
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


class _FileScan(NamedTuple):
    size: tuple[int, int] | None  # (h, w) of the image, None where it cannot be read.
    problems: list[tuple[Kind, str, str]]  # kind, file, detail
    counts: np.ndarray | None  # (256,) pixels of each value of a label that fits.


@dataclass
class ScanReport:
    """Problems and class frequencies in the files that were read."""

    split: Split
    scanned: int = 0  # images read
    labels: int = 0  # labels that fit their images and the classes; the next three count them alone
    pixels: np.ndarray = field(init=False)  # (K,) int64, pixels of each class
    ignored: int = 0  # pixels with the ignore value
    images_with: np.ndarray = field(init=False)  # (K,) int64, labels that have each class
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # number of images of each size (h, w)
    problems: Counter[Kind] = field(default_factory=Counter)  # number of files with each kind of problem
    # The first ten of these files, in the order of the list, with a detail in brackets.
    examples: defaultdict[Kind, list[str]] = field(default_factory=lambda: defaultdict(list))
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
        if scan.size is not None:
            self.sizes[scan.size] += 1
        for kind, file, detail in scan.problems:
            self.problems[kind] += 1
            if len(self.examples[kind]) < _EXAMPLES:
                self.examples[kind].append(f"{file} ({detail})" if detail else file)
        if scan.counts is not None:
            pixels = scan.counts[: len(self.pixels)]
            self.labels += 1
            self.pixels += pixels
            self.ignored += int(scan.counts[self.split.ignore_value])
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
    file, size, problems, counts = entry["file_name"], None, [], None
    try:
        size = (large_image_size(file) if entry.get("bands") is None else None) or read_image(file).shape[:2]
        if min(size) < SMALLEST_SIDE:
            problems.append((Kind.TINY, file, f"{size[1]}x{size[0]}"))
    except InputError as error:
        problems.append((Kind.IMAGE_UNREADABLE, file, _detail(error, file)))
    if labelled:
        counts = _label_counts(entry, size, num_classes, ignore_value)
        if not isinstance(counts, np.ndarray):
            problems.append(counts)
            counts = None
        elif not counts[:num_classes].any():
            problems.append((Kind.ALL_IGNORED, entry["sem_seg_file_name"], ""))
    return _FileScan(size, problems, counts)


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
        kinds = {LabelColorError: Kind.LABEL_COLORS, LabelValueError: Kind.VALUES_OUTSIDE}
        return kinds.get(type(error), Kind.LABEL_UNREADABLE), file, _detail(error, file)
    counts, shape = large or (np.bincount(label.ravel(), minlength=256), label.shape)
    if size is not None and shape != size:
        return Kind.SIZES_DIFFER, file, f"label {shape[1]}x{shape[0]}, image {size[1]}x{size[0]}"
    outside = [value for value in np.flatnonzero(counts) if value >= num_classes and value != ignore_value]
    if outside:
        return Kind.VALUES_OUTSIDE, file, first_few(outside, 5)
    return counts


def _detail(error: InputError, file: str) -> str:
    """Return an error without the file's name and the advice."""
    return str(error).removeprefix(f"{file}: ").split("; ")[0].removesuffix(".")

"""Read the files of a data set and count what is wrong with them, and which classes its labels hold."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ...errors import InputError
from ..loading.reading import LabelColorError, LabelValueError, read_image, read_label

SMALLEST_SIDE = 32
_NAMED = 10
_CHUNK = 8
_THREADS = 8


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        title: what is wrong, after a number of files.
        advice: what to do.
        fatal: whether it spoils training; the others are warnings.
    """

    title: str
    advice: str
    fatal: bool


IMAGE_UNREADABLE = Kind("images that cannot be read", "replace them or take them out of the data set", True)
LABEL_MISSING = Kind("images without a label file", "complete the labels or name the images as unlabelled", True)
LABEL_UNREADABLE = Kind("labels that cannot be read", "replace them with whole PNG files", True)
LABEL_COLORS = Kind(
    "labels with colours where class indices are expected",
    "say what the colours mean in the key label_map of the data set's YAML file, or save labels with one channel",
    True,
)
VALUES_OUTSIDE = Kind(
    "labels with values that are no class",
    "correct the files, or classes, ignore_value and label_map in the data set's YAML file",
    True,
)
SIZES_DIFFER = Kind("labels of another size than their images", "give both the same size", True)
ALL_IGNORED = Kind(
    "labels with the ignore value on every pixel", "complete them or leave them out: they teach nothing", False
)
TINY = Kind(f"images with a side below {SMALLEST_SIDE} pixels", "leave them out if they are icons or thumbnails", False)
# In the order in which they are told.
KINDS = (
    IMAGE_UNREADABLE, LABEL_MISSING, LABEL_UNREADABLE, LABEL_COLORS, VALUES_OUTSIDE, SIZES_DIFFER, ALL_IGNORED, TINY,
)  # fmt: skip


@dataclass
class Finding:
    """The files of one kind: how many, and the first ten in the order of the list, each with what exactly is wrong."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        """The first ten, with what is wrong in brackets; once, at the end, where it is the same with all of them."""
        details = {detail for _, detail in self.examples}
        if len(details) > 1 or len(self.examples) == 1:
            return tuple(f"{file} ({detail})" if detail else file for file, detail in self.examples)
        *files, last = (file for file, _ in self.examples)
        return (*files, f"{last} (each: {details.pop()})" if details != {""} else last)


@dataclass(frozen=True)
class ScanSettings:
    """What is looked at.

    Attributes:
        labelled: whether each image has to have its label.
        num_classes: class indices are below it.
        ignore_value: the label value for "no class".
    """

    labelled: bool
    num_classes: int
    ignore_value: int


@dataclass
class ScanReport:
    """What was found in the files that were read.

    Attributes:
        settings: what was looked at.
        total: images in the list.
        scanned: images read.
        labels: labels that could be read and fit their images and the classes; the next three count them alone.
        pixels: (num_classes,) int64, their pixels of each class.
        ignored: their pixels with the ignore value.
        images_with: (num_classes,) int64, how many of them have a pixel of each class.
        sizes: how many images have each size (h, w).
        findings: what is wrong, by kind.
        seconds: the time that it took.
    """

    settings: ScanSettings
    total: int = 0
    scanned: int = 0
    labels: int = 0
    pixels: np.ndarray = field(init=False)
    ignored: int = 0
    images_with: np.ndarray = field(init=False)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    findings: dict[Kind, Finding] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self):
        self.pixels = np.zeros(self.settings.num_classes, np.int64)
        self.images_with = np.zeros(self.settings.num_classes, np.int64)

    @property
    def complete(self) -> bool:
        """Whether every image of the list was read."""
        return self.scanned == self.total

    @property
    def absent(self) -> list[int]:
        """The classes that no label has, of those read."""
        return np.flatnonzero(self.images_with == 0).tolist() if self.settings.labelled else []

    def size_range(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """The smallest, the median and the largest (h, w) by area; None where no image could be read."""
        sizes = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        if not sizes:
            return None
        ends = np.cumsum([self.sizes[size] for size in sizes])
        return sizes[0], sizes[int(np.searchsorted(ends, ends[-1] / 2))], sizes[-1]

    def is_fatal(self, kind: Kind) -> bool:
        """Whether the findings of this kind spoil training; ignored labels do if there are no others."""
        return kind.fatal or (kind is ALL_IGNORED and self.findings[kind].count == self.scanned)

    def title(self, kind: Kind) -> str:
        """What is wrong with the files of this kind, with the classes where they matter."""
        classes = f" (0 to {self.settings.num_classes - 1}) and not the ignore value {self.settings.ignore_value}"
        return kind.title + (classes if kind is VALUES_OUTSIDE else "")

    def add(self, kind: Kind, file: str, detail: str = "") -> None:
        """Note one file."""
        finding = self.findings.setdefault(kind, Finding())
        finding.count += 1
        if len(finding.examples) < _NAMED:
            finding.examples.append((file, detail))

    def merge(self, other: ScanReport) -> None:
        """Add what was found in the files that follow."""
        self.scanned += other.scanned
        self.labels += other.labels
        self.pixels += other.pixels
        self.ignored += other.ignored
        self.images_with += other.images_with
        self.sizes += other.sizes
        for kind, finding in other.findings.items():
            mine = self.findings.setdefault(kind, Finding())
            mine.count += finding.count
            mine.examples = (mine.examples + finding.examples)[:_NAMED]


def scan(
    entries: Sequence[dict],
    settings: ScanSettings,
    limit: int | None = None,
    seed: int = 0,
    processes: int = 0,
    progress: Callable[[int], object] | None = None,
) -> ScanReport:
    """Read the files of ``entries``.

    Args:
        entries: dataset dicts.
        settings: what is looked at.
        limit: at most so many entries, drawn with ``seed``; None reads all.
        seed: the same seed draws the same entries, in the order of the list.
        processes: how many read; 0 reads with threads of this process, enough for a sample.
        progress: called with the number of images read since its last call.

    Raises:
        InputError: a reading process came to a sudden end.
    """
    start = time.perf_counter()
    report = ScanReport(settings, total=len(entries))
    indices: Sequence[int] = range(len(entries))
    if limit is not None and len(entries) > limit:
        drawn = np.random.default_rng(seed).choice(len(entries), limit, replace=False)
        indices = np.sort(drawn).tolist()
    # Decoding releases the interpreter lock, counting labels does not.
    pool = ProcessPoolExecutor(processes) if processes else ThreadPoolExecutor(_THREADS)
    ahead = 4 * (processes or _THREADS)
    try:
        with pool:
            for part in _in_order(pool, partial(_read, settings=settings), _chunks(entries, indices), ahead):
                report.merge(part)
                if progress is not None:
                    progress(part.scanned)
    except BrokenProcessPool as error:
        raise InputError(
            f"A process that was reading images came to a sudden end, after {report.scanned} of {len(indices)} images; "
            f"it may have run out of memory: use fewer workers."
        ) from error
    report.seconds = time.perf_counter() - start
    return report


def _chunks(entries: Sequence[dict], indices: Sequence[int]) -> Iterator[list[dict]]:
    for first in range(0, len(indices), _CHUNK):
        yield [entries[index] for index in indices[first : first + _CHUNK]]


def _in_order(pool: Executor, function: Callable, chunks: Iterator[list[dict]], ahead: int) -> Iterator[ScanReport]:
    """As pool.map, but with only ``ahead`` chunks made and waiting: a list may have ten million entries."""
    waiting = deque()
    for chunk in chunks:
        waiting.append(pool.submit(function, chunk))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(entries: list[dict], settings: ScanSettings) -> ScanReport:
    report = ScanReport(settings, total=len(entries))
    for entry in entries:
        report.scanned += 1
        size = _read_image(entry["file_name"], report)
        if settings.labelled:
            _read_label(entry, size, report)
    return report


def _read_image(file: str, report: ScanReport) -> tuple[int, int] | None:
    """The image's (h, w), None where it cannot be read."""
    try:
        size = read_image(file).shape[:2]
    except InputError as error:
        report.add(IMAGE_UNREADABLE, file, _detail(error, file))
        return None
    report.sizes[size] += 1
    if min(size) < SMALLEST_SIDE:
        report.add(TINY, file, f"{size[1]}x{size[0]}")
    return size


def _read_label(entry: dict, image_size: tuple[int, int] | None, report: ScanReport) -> None:
    file, settings = entry.get("sem_seg_file_name"), report.settings
    if file is None:
        report.add(LABEL_MISSING, entry["file_name"])
        return
    try:
        label = read_label(file, entry.get("label_map"))
    except LabelColorError as error:
        report.add(LABEL_COLORS, file, _detail(error, file))
        return
    except LabelValueError as error:
        report.add(VALUES_OUTSIDE, file, _detail(error, file))
        return
    except InputError as error:
        report.add(LABEL_UNREADABLE, file, _detail(error, file))
        return
    if image_size is not None and label.shape != image_size:
        report.add(
            SIZES_DIFFER, file, f"label {label.shape[1]}x{label.shape[0]}, image {image_size[1]}x{image_size[0]}"
        )
        return
    counts = np.bincount(label.ravel(), minlength=256)
    pixels, ignored = counts[: settings.num_classes], int(counts[settings.ignore_value])
    outside = [
        value for value in np.flatnonzero(counts) if value >= settings.num_classes and value != settings.ignore_value
    ]
    if outside:
        report.add(VALUES_OUTSIDE, file, ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else ""))
        return
    if not pixels.any():
        report.add(ALL_IGNORED, file)
    report.labels += 1
    report.pixels += pixels
    report.ignored += ignored
    report.images_with += pixels > 0


def _detail(error: InputError, file: str) -> str:
    """What is wrong, without the file's name and the advice."""
    return str(error).removeprefix(f"{file}: ").split("; ")[0].removesuffix(".")

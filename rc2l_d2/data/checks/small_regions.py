"""Labelled regions that become too small to learn from when images are shrunk for training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from ...errors import InputError
from ...host import CfgNode
from ..loading.reading import read_label
from ..loading.transforms import scaled_size

# Labels that are read, evenly over the list, and of at most so many pixels: counting regions takes time.
_LABELS, _MAX_PIXELS = 20, 2**26
# A mask has a pixel for each 4 x 4 pixels of an image.
_MASK_PIXEL = 16
_FEWEST = 4  # mask pixels of a region that can be learned


def shrinking_regions(entries: Sequence[dict], classes: Sequence[str], short_edge: int, long_edge: int) -> str | None:
    """Return a sentence about classes most of whose regions shrink below four mask pixels; None without any.

    Regions are connected; those below one mask pixel in the file are noise of the labelling and do not count. Those
    that have fewer than four in the file count as shrunk where images are shrunk to less than half.

    Args:
        entries: dataset dicts with labels.
        classes: names of the K classes.
        short_edge, long_edge: size of the training images in pixels; a ``short_edge`` of 0 keeps the size.
    """
    if not short_edge or not entries:
        return None
    total, lost = [0] * len(classes), [0] * len(classes)
    needed: list[tuple[int, float]] = []  # class of a lost region, the shorter edge that keeps it
    for place in np.unique(np.linspace(0, len(entries) - 1, _LABELS).astype(int)).tolist():
        try:
            label = read_label(entries[place]["sem_seg_file_name"], entries[place].get("label_map"))
        except (InputError, KeyError):  # The check of the files reports them.
            continue
        height, _ = scaled_size(label.shape, short_edge, long_edge)
        scale = height / label.shape[0]
        if scale >= 1 or label.size > _MAX_PIXELS:
            continue
        for index, area in _regions(label, len(classes)):
            total[index] += 1
            if area * scale**2 < _FEWEST * _MASK_PIXEL and (area >= _FEWEST * _MASK_PIXEL or scale < 0.5):
                lost[index] += 1
                needed.append((index, min(1.0, math.sqrt(_FEWEST * _MASK_PIXEL / area)) * min(label.shape)))
    vanishing = [index for index in range(len(classes)) if lost[index] > total[index] / 2]
    if not vanishing:
        return None
    listed = ", ".join(f"{classes[index]} ({lost[index]} of {total[index]})" for index in vanishing[:10])
    enough = math.ceil(np.median([edge for index, edge in needed if index in vanishing]))
    return (
        f"Regions with fewer than {_FEWEST} mask pixels at a shorter edge of {short_edge} pixels are hardly learned: "
        f"{listed}; train on crops at full size (INPUT.MIN_SIZE_TRAIN (0,), with INPUT.MIN_SIZE_TEST 0 and "
        f"TEST.SLIDING_WINDOW.ENABLED True), or on larger images (rc2l-quickstart --short-edge {enough})."
    )


def shrinking_training_regions(cfg: CfgNode, entries: Sequence[dict], classes: Sequence[str]) -> str | None:
    """Return :func:`shrinking_regions` at the largest training size of ``cfg.INPUT``."""
    edges = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    largest = 0 if 0 in edges or not edges else max(edges)
    return shrinking_regions(entries, classes, largest, cfg.INPUT.MAX_SIZE_TRAIN)


def _regions(label: np.ndarray, number: int) -> Iterator[tuple[int, int]]:
    """Yield class and area in pixels of each connected region, except those below one mask pixel."""
    for index in np.unique(label).tolist():
        if index < number:
            areas = cv2.connectedComponentsWithStats((label == index).view(np.uint8))[2][1:, cv2.CC_STAT_AREA]
            yield from ((index, int(area)) for area in areas if area >= _MASK_PIXEL)

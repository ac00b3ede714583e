"""COCO's JSON files: instances, stuff and panoptic segments of many images in one file, drawn with pycocotools."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ...errors import InputError, one_line
from ..loading.plain import PILLOW_ERRORS
from .coco_file import open_coco
from .drawn import DrawnLabel, DrawnLabels, inside, lies_outside, upright_size
from .label_map import UnlistedValueError


@dataclass(frozen=True)
class CocoLabels(DrawnLabels):
    """A file of COCO and how its images are found."""

    by_name: bool = False  # whether folders in file names are ignored
    keep_empty: bool = False  # whether an image without annotations has a label, all outside
    segments: str = ""  # folder of the PNG files of panoptic segments, from the file's; "" for that of the file's name

    def of(self, file: str, image: str, name: str, image_id: str) -> CocoLabel | None:
        """See :meth:`DrawnLabels.of`."""
        listed = inside(name, self.images)
        if listed is None or not os.path.isfile(file):
            return None
        opened = open_coco(file)
        index = opened.find(listed, self.by_name)
        if index is None or not (opened.counts[index] or self.keep_empty):
            return None
        segments = ""
        if opened.panoptic:
            segments = os.path.splitext(file)[0]
            segments = os.path.join(os.path.dirname(file), self.segments) if self.segments else segments
        return CocoLabel(self.classes, image, opened.sizes[index], opened.annotations[index], segments)


@dataclass(frozen=True)
class CocoLabel(DrawnLabel):
    """The annotations of one image, drawn in the order of the file: where two overlap, the later one counts."""

    image: str
    size: tuple[int, int] | None  # as stated in the file
    annotations: str  # JSON: list of [category, annotation]
    segments: str  # folder of the PNG file of panoptic segments, "" for polygons and RLE

    def draw(self, file: str) -> np.ndarray:
        """See :meth:`DrawnLabel.draw`."""
        where = f"{file}: image {os.path.basename(self.image)}"
        label = self.classes.canvas(self.size or upright_size(self.image))
        targets = []
        try:
            for name, annotation in json.loads(self.annotations):
                targets.append((self.classes.target(name), annotation))
        except UnlistedValueError as error:
            raise InputError(f"{where}: {error}.") from error
        if self.segments:
            return self._draw_segments(label, targets, where)
        # Neighbours of one class are joined before they are decoded: the same pixels, in less time.
        for target, group in groupby(targets, key=lambda pair: pair[0]):
            codes = list(_codes((annotation for _, annotation in group), label.shape, where))
            label[coco_mask.decode(coco_mask.merge(codes)) > 0] = target
        return label

    def _draw_segments(self, label: np.ndarray, targets: list[tuple[int, dict]], where: str) -> np.ndarray:
        targets = [(target, segment) for target, segment in targets if segment is not None]
        names = {segment["png"] for _, segment in targets}
        for png in names:
            ids = _segment_ids(os.path.join(self.segments, png))
            if self.size and ids.shape != self.size:
                raise InputError(
                    f"{os.path.join(self.segments, png)}: the segments are {ids.shape[1]}x{ids.shape[0]} pixels, but "
                    f"{where} says {self.size[1]}x{self.size[0]}; give both the same size."
                )
            known = np.array([0, *(segment["id"] for _, segment in targets)])
            classes = np.array([self.classes.outside, *(target for target, _ in targets)], np.uint8)
            order = np.argsort(known, kind="stable")
            places = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
            if (strange := ids[known[order][places] != ids]).size:
                raise InputError(
                    f"{where} has no segment {strange[0]}, but {os.path.join(self.segments, png)} has; use files of "
                    f"one export."
                )
            label = classes[order][places]
        return label


def _codes(annotations: Iterator[dict], size: tuple[int, int], where: str) -> Iterator[dict]:
    """The run-length code of each annotation, as pycocotools' ``annToRLE`` makes it."""
    for annotation in annotations:
        try:
            yield run_lengths(annotation["segmentation"], size)
        except ValueError as error:
            raise InputError(f"{where}: annotation {annotation['id']} {one_line(error)}; correct it.") from error


def run_lengths(segmentation: Any, size: tuple[int, int]) -> dict:
    """Polygons or run lengths, compressed or not -> pycocotools' code of the mask.

    Args:
        segmentation: [[x, y, x, y, ...], ...] in pixels, or {"size": [h, w], "counts": text or numbers}.
        size: (H, W) of the image.

    Raises:
        ValueError: it is neither, it has another size, or its run lengths do not fill the image.
    """
    height, width = size
    if isinstance(segmentation, list) and segmentation:
        points = [_polygon(polygon, max(size)) for polygon in segmentation]
        if all(lies_outside(polygon, size) for polygon in points):
            raise ValueError(f"lies outside of its image of {width}x{height} pixels (was that shrunk or cut?)")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), (str, list)):
        raise ValueError("has neither polygons nor run lengths")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"has run lengths of the size {segmentation.get('size')}, its image {[height, width]}")
    counts = segmentation["counts"]
    lengths = _decoded(counts) if isinstance(counts, str) else counts
    # pycocotools does not check it, and would leave pixels as they happen to lie in memory.
    if not all(type(length) is int and 0 <= length < 2**32 for length in lengths) or sum(lengths) != height * width:
        raise ValueError("has run lengths that do not sum to the number of pixels")
    return coco_mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)


def _polygon(polygon: Any, longest: int) -> np.ndarray:
    """Return the points (n, 2), x and y in pixels, of a polygon; ValueError if it has none."""
    try:
        array = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    # pycocotools would read four numbers as a box, and an odd one as none.
    if array.ndim != 1 or len(array) < 6 or len(array) % 2:
        raise ValueError("has a polygon that is not x and y of three points at least")
    if not (np.abs(array) <= 16 * longest + 1024).all():
        raise ValueError("has a polygon that lies far outside the image")
    return array.reshape(-1, 2)


def _decoded(text: str) -> list[int]:
    """The run lengths of COCO's compressed code: five bits a character, from the fourth number on differences."""
    lengths: list[int] = []
    value, shift = 0, 0
    for code in text.encode("utf-8"):
        chunk = code - 48
        if not 0 <= chunk < 64 or shift > 60:
            raise ValueError("has compressed run lengths that cannot be decoded")
        value |= (chunk & 31) << shift
        shift += 5
        if not chunk & 32:
            value -= (chunk & 16) and 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise ValueError("has compressed run lengths that end too early")
    return lengths


def _segment_ids(png: str) -> np.ndarray:
    """The ids of a panoptic PNG file, red + 256 green + 65536 blue: int64 (H, W)."""
    try:
        with Image.open(png) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise InputError(f"{png}: the segments are of type {image.mode}; save them as 8-bit RGB.")
            colors = np.array(image.convert("RGB"), np.int64)
    except FileNotFoundError as error:
        raise InputError(f"{png}: the file of panoptic segments does not exist; complete the data set.") from error
    except InputError:
        raise
    except PILLOW_ERRORS as error:
        raise InputError(f"{png}: the file of panoptic segments cannot be decoded; replace it.") from error
    return colors @ np.array([1, 256, 65536])

"""The content of a COCO file: checked, and packed image by image."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from ...errors import InputError, first_few, one_line
from ..datasets.packed import PackedStrings
from .drawn import stated_size
from .json_file import read_json


@dataclass(frozen=True, eq=False)
class CocoFile:
    """Images and annotations of a file, both in its order."""

    path: str
    names: tuple[str, ...]  # the file names of the images
    sizes: tuple[tuple[int, int] | None, ...]  # height and width as stated
    annotations: PackedStrings  # of each image, JSON: list of [category's name, annotation]
    counts: tuple[int, ...]  # annotations of each image
    categories: tuple[str, ...]  # the names
    used: tuple[str, ...]  # those that annotations have
    panoptic: bool  # whether annotations are segments of PNG files
    by_path: dict[str, int]  # file name -> image
    by_name: dict[str, int | None]  # file name without folders -> image; None: several have it

    def find(self, name: str, by_name: bool) -> int | None:
        """The image of a file name; None if there is none. InputError if several have it."""
        if not by_name:
            return self.by_path.get(name)
        base = os.path.basename(name)
        if base in self.by_name and self.by_name[base] is None:
            raise InputError(f"{self.path}: several images are called '{base}'; name the folder of the images.")
        return self.by_name.get(base)


def open_coco(path: str) -> CocoFile:
    """Read a COCO file, once as long as it stays the same.

    Raises:
        InputError: it cannot be read, is no COCO file, lists an image or a category twice, or has annotations of
            unknown images or categories, or without a segmentation.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: the COCO file cannot be read ({error.strerror}); correct its path.") from error
    return _read(path, (state.st_mtime_ns, state.st_size))


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file has COCO's three lists."""
    lists = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in lists)


@lru_cache(maxsize=8)
def _read(path: str, stamp: tuple[int, int]) -> CocoFile:
    """The file; ``stamp`` only tells its versions apart."""
    content = read_json(path, "COCO file", "correct its path")
    if not is_coco(content):
        raise InputError(
            f"{path}: this is no COCO file, which has the lists images, annotations and categories; export one."
        )
    try:
        return _checked(path, content)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {one_line(error)}.") from error


def _checked(path: str, content: dict[str, Any]) -> CocoFile:
    images, categories = content["images"], content["categories"]
    _unique("images", "id", images, (int, str))
    _unique("images", "file_name", images, (str,))
    _unique("categories", "id", categories, (int, str))
    _unique("categories", "name", categories, (str,))
    names = tuple(_plain(image["file_name"]) for image in images)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the image {twice[0]} is listed twice; remove one of the two")
    name_of = {category["id"]: category["name"] for category in categories}
    place_of = {image["id"]: place for place, image in enumerate(images)}
    panoptic = any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"])
    of_image: list[list] = [[] for _ in images]
    used: set[str] = set()
    bare = []
    for annotation in content["annotations"]:
        place = place_of.get(_hashable(annotation, "image_id", "annotations"))
        if place is None:
            raise ValueError(f"annotation {annotation.get('id')} belongs to an image that is not listed; correct it")
        parts = _segments(annotation) if panoptic else [annotation]
        for part in parts:
            name = name_of.get(_hashable(part, "category_id", "annotations"))
            if name is None:
                raise ValueError(f"annotation {part.get('id')} has a category that is not listed; correct it")
            if not panoptic and not part.get("segmentation"):
                bare.append(part)
            used.add(name)
            keys = ("id", "png") if panoptic else ("id", "segmentation")
            of_image[place].append([name, {key: part.get(key) for key in keys}])
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(content['annotations'])} annotations have no segmentation (annotation "
            f"{bare[0].get('id')} is the first); export polygons or masks, not boxes alone"
        )
    polygons = (polygon for part in content["annotations"] for polygon in _polygons(part))
    first = next(polygons, None)
    if first is not None and all(max(polygon) <= 1 for polygon in chain([first], polygons)):
        raise ValueError("no polygon leaves the first pixel, as if coordinates were fractions; give them in pixels")
    bases: dict[str, int | None] = {}
    for place, name in enumerate(names):
        base = os.path.basename(name)
        bases[base] = None if base in bases else place
    return CocoFile(
        path=path,
        names=names,
        sizes=tuple(_size(image) for image in images),
        annotations=PackedStrings.of(json.dumps(listed, separators=(",", ":")) for listed in of_image),
        counts=tuple(map(len, of_image)),
        categories=tuple(name_of.values()),
        used=tuple(name for name in name_of.values() if name in used),
        panoptic=panoptic,
        by_path={name: place for place, name in enumerate(names)},
        by_name=bases,
    )


def _polygons(annotation: dict) -> list[list[float]]:
    """The polygons of an annotation that are lists of numbers."""
    found = annotation.get("segmentation")
    lists = [polygon for polygon in found if isinstance(polygon, list) and polygon] if isinstance(found, list) else []
    return [polygon for polygon in lists if all(type(x) in (int, float) for x in polygon)]


def _segments(annotation: dict) -> list[dict]:
    """The segments of a panoptic annotation, each with the name of the PNG file."""
    segments, png = annotation.get("segments_info"), annotation.get("file_name")
    usable = isinstance(segments, list) and isinstance(png, str) and all(isinstance(part, dict) for part in segments)
    if not usable or not all(type(part.get("id")) is int and 0 < part["id"] < 2**24 for part in segments):
        raise ValueError("a panoptic annotation has no file_name, or segments_info without ids; correct it")
    return [{**part, "png": _plain(png)} for part in segments]


def _size(image: dict) -> tuple[int, int] | None:
    try:
        return stated_size(image.get("height"), image.get("width"))
    except ValueError as error:
        raise ValueError(f"the image {image['file_name']} has {error}; correct it") from error


def _plain(name: str) -> str:
    """A file name with slashes, as some tools write backslashes on Windows."""
    os.fsencode(name)  # ValueError for a text that can be no file's name
    return os.path.normpath(name.replace("\\", "/"))


def _unique(kind: str, key: str, entries: Iterable[Any], types: tuple[type, ...]) -> None:
    seen = Counter(_hashable(entry, key, kind, types) for entry in entries)
    twice = [value for value, count in seen.items() if count > 1]
    if twice:
        raise ValueError(f"the {key} of two {kind} is equal ({first_few(twice, 3)}); give each its own")


def _hashable(entry: Any, key: str, kind: str, types: tuple[type, ...] = (int, str)) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) not in types:
        given = "" if value is None else f" that is usable ({str(value)[:50]!r})"
        raise ValueError(f"one of {kind} has no {key}{given}; correct it")
    return value

"""The drawn toy set: a folder in Pascal VOC's layout, filled with drawn scenes.

Image ``index`` of a part depends on (seed, part, index) and the size alone: a larger set begins with the smaller one,
and images could be drawn in any order. The classes' names for training stand in ``configs/toy/dataset.yaml``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...errors import InputError
from ..datasets.description import voc_color_map
from .scene import SHAPES, Scene, draw_scene

__all__ = ["GENERATOR_VERSION", "SHAPES", "Scene", "draw_image", "draw_own_pictures", "draw_toy_dataset"]

# Goes up with every change that changes a pixel, so that sets drawn before are drawn again.
GENERATOR_VERSION = 5

_PARTS = ("train", "val")
_RECORD = "toy.json"
_IMAGES, _LABELS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_OWN_FOLDERS = ("photos", "masks", "more")
_OURS = re.compile(
    rf"{re.escape(_RECORD)}|{_IMAGES}/(train|val)_\d{{5}}\.jpg|{_LABELS}/(train|val)_\d{{5}}\.png"
    rf"|{_LISTS}/(train|val)\.txt"
)


def draw_image(seed: int, part: str, index: int, size: tuple[int, int] = (96, 96)) -> Scene:
    """The scene number ``index`` of ``part`` ("train" or "val"); ``size`` is (height, width) in pixels."""
    return draw_scene(np.random.default_rng([seed, _PARTS.index(part), index]), size)


def draw_toy_dataset(
    root: str | os.PathLike,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
    progress: Callable[[list[tuple[str, int]]], Iterable[tuple[str, int]]] | None = None,
) -> bool:
    """Write the drawn set to ``root``, unless exactly this set is there already.

    ``root`` gets ``JPEGImages``, ``SegmentationClass`` (palette PNGs, 255 on borders), ``ImageSets/Segmentation`` and
    the record ``toy.json``. A drawn set with other parameters (or one that was not finished) is replaced.

    Args:
        root: the folder, made where it does not exist.
        num_train, num_val: number of images, 1 to 100,000 each.
        size: (height, width) in pixels, at least 32.
        seed: at least 0. The same seed gives the same bytes (on one machine and with the same libraries).
        progress: wraps the list of images to be drawn, as ``tqdm`` does.

    Returns:
        True where it drew, False where the set was there.

    Raises:
        InputError: a parameter is out of its range, or ``root`` holds something other than a drawn set.
    """
    root = Path(root)
    counts = dict(zip(_PARTS, (num_train, num_val), strict=True))
    for part, count in counts.items():
        _require(1 <= count <= 100_000, f"the number of images for '{part}'", count, "from 1 to 100000")
    _require_drawable(size, seed)

    record = {"generator": GENERATOR_VERSION, **counts, "size": list(size), "seed": seed}
    names = [(part, index) for part in _PARTS for index in range(counts[part])]
    present = _files(root)
    if _read_record(root) == {**record, "complete": True} and _expected(names) <= present:
        return False
    _clear(root, present)

    for folder in (_IMAGES, _LABELS, _LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    # Marks the folder as ours from the start, so that a run that was broken off can be repeated.
    _write_record(root, {**record, "complete": False})
    for part, index in progress(names) if progress else names:
        scene = draw_image(seed, part, index, tuple(size))
        _write_image(root / _IMAGES / f"{_id(part, index)}.jpg", scene)
        _write_label(root / _LABELS / f"{_id(part, index)}.png", scene)
    for part in _PARTS:
        lines = "".join(f"{_id(part, index)}\n" for index in range(counts[part]))
        (root / _LISTS / f"{part}.txt").write_text(lines, encoding="utf-8")
    _write_record(root, {**record, "complete": True})
    return True


def draw_own_pictures(
    root: str | os.PathLike, num_labeled: int, num_unlabeled: int, size: tuple[int, int] = (96, 96), seed: int = 0
) -> None:
    """Write scenes as one's own pictures lie: ``photos`` with labels of the same names in ``masks``, and ``more``.

    Args:
        root: the folder for these three.
        num_labeled, num_unlabeled: number of images, 1 to 100,000 each; they are the first of the toy set's "train".
        size: (height, width) in pixels, at least 32.
        seed: at least 0.

    Raises:
        InputError: a parameter is out of its range, or one of the folders is there already.
    """
    folders = photos, masks, more = [Path(root, name) for name in _OWN_FOLDERS]
    for what, count in (("labelled", num_labeled), ("unlabelled", num_unlabeled)):
        _require(1 <= count <= 100_000, f"the number of {what} images", count, "from 1 to 100000")
    _require_drawable(size, seed)
    there = [folder for folder in folders if folder.exists()]
    if there:
        raise InputError(f"{there[0]} is there already; choose another root or remove it.")
    for folder in folders:
        folder.mkdir(parents=True)
    for index in range(num_labeled + num_unlabeled):
        scene, name = draw_image(seed, "train", index, size), f"{index:05d}"
        _write_image((photos if index < num_labeled else more) / f"{name}.jpg", scene)
        if index < num_labeled:
            _write_label(masks / f"{name}.png", scene)


def _id(part: str, index: int) -> str:
    return f"{part}_{index:05d}"


def _write_image(path: Path, scene: Scene) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)
    path.write_bytes(encoded.tobytes())


def _write_label(path: Path, scene: Scene) -> None:
    label = Image.fromarray(scene.label)
    label.putpalette(_voc_palette())
    label.save(path)


@cache
def _voc_palette() -> bytes:
    return bytes(value for color in voc_color_map(256) for value in color)


def _expected(names: list[tuple[str, int]]) -> set[str]:
    images = {f"{_IMAGES}/{_id(*name)}.jpg" for name in names}
    labels = {f"{_LABELS}/{_id(*name)}.png" for name in names}
    return images | labels | {f"{_LISTS}/{part}.txt" for part in _PARTS}


def _files(root: Path) -> set[str]:
    """Everything below ``root`` that is not a folder, with "/"; a ``root`` that is a file is an error."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: this is a file, not a folder; choose another root for the toy set.")
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def _read_record(root: Path) -> dict | None:
    try:
        return json.loads((root / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_record(root: Path, record: dict) -> None:
    part = root / f"{_RECORD}.part"
    part.write_text(json.dumps(record) + "\n", encoding="utf-8")
    os.replace(part, root / _RECORD)


def _clear(root: Path, present: set[str]) -> None:
    """Remove a drawn set; refuse to touch a folder that is not one."""
    foreign = sorted(name for name in present if not _OURS.fullmatch(name))
    if foreign or (present and _RECORD not in present):
        example = foreign[0] if foreign else min(present)
        raise InputError(
            f"{root}: this folder holds other things than a drawn toy set ({example}); choose another root or empty it."
        )
    for name in present - {_RECORD}:
        (root / name).unlink()


def _require_drawable(size: tuple[int, int], seed: int) -> None:
    _require(min(size) >= 32, "the image size", " x ".join(map(str, size)), "at least 32 x 32")
    _require(seed >= 0, "the seed", seed, "0 or larger")


def _require(condition: bool, what: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"The toy set cannot be drawn: {what} is {value}; it must be {expected}.")

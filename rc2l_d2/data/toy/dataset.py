"""The generated toy data set: a folder in Pascal VOC's layout, filled with drawn scenes.

Image ``index`` of a split depends only on (seed, split, index) and the size: a larger set begins with the smaller one.
The class names are in ``configs/toy/dataset.yaml``, those of the demo's landscapes in ``configs/demo/dataset.yaml``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...errors import InputError
from ..labels.label_map import voc_color_map
from .scene import Scene, draw_scene

# Increase it with every change that changes a pixel, so that existing sets are drawn again.
GENERATOR_VERSION = 5

_SPLITS = ("train", "val")
_RECORD = "toy.json"
_IMAGES, _LABELS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_OWN_FILES = re.compile(
    rf"{re.escape(_RECORD)}|{_IMAGES}/(train|val)_\d{{5}}\.jpg|{_LABELS}/(train|val)_\d{{5}}\.png"
    rf"|{_LISTS}/(train|val)\.txt"
)


# Draws a scene of a size (height, width).
Draw = Callable[[np.random.Generator, tuple[int, int]], Scene]


def draw_image(seed: int, split: str, index: int, size: tuple[int, int] = (96, 96), draw: Draw = draw_scene) -> Scene:
    """Draw the scene number ``index`` of ``split`` ("train" or "val"); ``size`` is (height, width) in pixels."""
    return draw(np.random.default_rng([seed, _SPLITS.index(split), index]), size)


def draw_toy_dataset(
    root: Path | str,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
    progress: Callable[[list[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
    draw: Draw = draw_scene,
) -> bool:
    """Write the toy set to ``root``; return False if exactly this set is there already.

    ``root`` gets ``JPEGImages``, ``SegmentationClass`` (palette PNGs, 255 on borders), ``ImageSets/Segmentation`` and
    the record ``toy.json``. A toy set with other parameters, or an unfinished one, is replaced.

    Args:
        root: the folder, made where it does not exist.
        num_train, num_val: number of images, 1 to 100,000 each.
        size: (height, width) in pixels, at least 32.
        seed: at least 0. The same seed gives the same bytes (on one machine and with the same libraries).
        progress: wraps the list of images to draw, as ``tqdm`` does.
        draw: ``draw_scene`` (shapes) or ``draw_landscape``.

    Raises:
        InputError: a parameter is out of its range, or ``root`` holds something other than a toy set.
    """
    root, counts = Path(root), {"train": num_train, "val": num_val}
    _check_parameters({f"'{split}'": count for split, count in counts.items()}, size, seed)
    names = {(split, index): f"{split}_{index:05d}" for split in _SPLITS for index in range(counts[split])}
    record = {"generator": GENERATOR_VERSION, "scene": draw.__name__, **counts, "size": list(size), "seed": seed}
    finished, present = json.dumps({**record, "complete": True}) + "\n", _files(root)
    expected = {f"{_IMAGES}/{name}.jpg" for name in names.values()}
    expected |= {f"{_LABELS}/{name}.png" for name in names.values()} | {f"{_LISTS}/{split}.txt" for split in _SPLITS}
    if expected <= present and (root / _RECORD).read_text(encoding="utf-8") == finished:
        return False
    for name in present - {_RECORD}:
        (root / name).unlink()
    for folder in (_IMAGES, _LABELS, _LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    # Marks the folder from the start, so that an interrupted run can be repeated.
    (root / _RECORD).write_text(json.dumps({**record, "complete": False}))
    for split in _SPLITS:
        lines = "".join(f"{split}_{index:05d}\n" for index in range(counts[split]))
        (root / _LISTS / f"{split}.txt").write_text(lines, encoding="utf-8")
    for key in progress(list(names)):
        scene = draw_image(seed, *key, tuple(size), draw)
        _write_image(root / _IMAGES / f"{names[key]}.jpg", scene)
        _write_label(root / _LABELS / f"{names[key]}.png", scene)
    (root / _RECORD).write_text(finished)
    return True


def draw_own_images(
    root: Path | str,
    num_labeled: int,
    num_unlabeled: int,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
    draw: Draw = draw_scene,
) -> None:
    """Write scenes as a user's own images: ``photos`` with labels of the same names in ``masks``, and ``more``.

    They are the first of the toy set's "train"; see :func:`draw_toy_dataset` for the arguments.

    Raises:
        InputError: a parameter is out of its range, or one of the folders is there already.
    """
    _check_parameters({"labelled": num_labeled, "unlabelled": num_unlabeled}, size, seed)
    folders = photos, masks, more = [Path(root, name) for name in ("photos", "masks", "more")]
    for folder in folders:
        if folder.exists():
            raise InputError(f"{folder} is there already; choose another root or remove it.")
    for folder in folders:
        folder.mkdir(parents=True)
    for index in range(num_labeled + num_unlabeled):
        scene, name = draw_image(seed, "train", index, size, draw), f"{index:05d}"
        _write_image((photos if index < num_labeled else more) / f"{name}.jpg", scene)
        if index < num_labeled:
            _write_label(masks / f"{name}.png", scene)


def _write_image(path: Path, scene: Scene) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)
    path.write_bytes(encoded.tobytes())


def _write_label(path: Path, scene: Scene) -> None:
    label = Image.fromarray(scene.label)
    label.putpalette(np.ravel(voc_color_map(256)).tolist())
    label.save(path)


def _files(root: Path) -> set[str]:
    """Return the files of a toy set below ``root``, with "/"; refuse a folder with other files."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: this is a file, not a folder; choose another root for the toy set.")
    paths = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    present = {path.relative_to(root).as_posix() for path in paths}
    foreign = sorted(name for name in present if not _OWN_FILES.fullmatch(name) or _RECORD not in present)
    if foreign:
        raise InputError(f"{root}: this folder holds other files than a toy set ({foreign[0]}); choose another root.")
    return present


def _check_parameters(counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    for kind, count in counts.items():
        _require(1 <= count <= 100_000, f"the number of {kind} images", count, "from 1 to 100000")
    _require(min(size) >= 32, "the image size", f"{size[0]} x {size[1]}", "at least 32 x 32")
    _require(seed >= 0, "the seed", seed, "0 or larger")


def _require(condition: bool, what: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"The toy set cannot be drawn: {what} is {value}; it must be {expected}.")

"""Recognise images that were made from others: overlays, coloured labels, label images of a second observer.

A name alone can mislead: ``night_1`` is no part of ``night``, and another video has frames of the same numbers. So a
file with the name of a labelled image counts only if its name also has one of _WORDS, or if it has few colours. Label
images of other images (of a test set) have no such name: they need both one of _WORDS and few colours. Companions are
less certain: files beside more than half of the labelled images that all have one ending (``_superpixels``), which a
second camera's images have too.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from ...errors import InputError
from ..datasets.entries import image_id
from ..datasets.image_lists import IMAGE_SUFFIXES
from ..loading.reading import read_image

# Beginnings of words in names of files and folders.
_WORDS = ("vis", "overlay", "color", "colour", "blend", "preview", "mask", "label", "instance", "annot", "segm", "gt",
          "groundtruth", "pred", "palette", "outline", "contour", "boundar", "edge", "trimap", "manual", "observer",
          "render", "heatmap", "polygon", "alpha", "result")  # fmt: skip
# What follows an image's name in that of a file made from it, as "_color", "-overlay", "_1stHO", " copy"; not "_2".
_ENDING = re.compile(r"[\W_](?=.*[A-Za-z]).*", re.DOTALL)
_WITHOUT_DIGIT = re.compile(r"[\W_](?=.*[A-Za-z])\D*", re.DOTALL)  # "_f1" may be a frame
_SIDE, _FEW_COLORS = 48, 40
_SEVERAL = 3  # labelled images with files of one ending, at least


def derived_images(images: Iterable[str], folder: str, sources: Sequence[str], source_folder: str) -> Iterator[str]:
    """Yield those of ``images`` that were made from one of ``sources``, or are label images by their names and colours.

    Args:
        images: paths below ``folder``.
        sources: the labelled images, below ``source_folder``.
    """
    by_name: dict[str, list[str]] = {}
    for path in sources:
        by_name.setdefault(os.path.basename(image_id(path, source_folder, IMAGE_SUFFIXES)), []).append(path)
    known = set(sources)
    drawn: dict[tuple[str, bool], bool] = {}  # whether the first file of a folder, by its kind of name, is a drawing
    for path in images:
        name = os.path.basename(image_id(path, folder, IMAGE_SUFFIXES))
        if path in known:
            continue
        if name in by_name:
            beside = all(os.path.dirname(path) == os.path.dirname(source) for source in by_name[name])
            words = os.path.relpath(os.path.dirname(path), folder)
            if not beside and (_says_derived(words) or _has_few_colors(path)):
                yield path
        elif any(_follows(name, start) for start in _beginnings(name) if start in by_name):
            yield path
        elif _says_derived(os.path.relpath(path, folder)):
            kind = os.path.dirname(path), _says_derived(name)
            drawn.setdefault(kind, kind not in drawn and _has_few_colors(path))
            if drawn[kind] and _has_few_colors(path):
                yield path


def companions(images: Iterable[str], sources: Sequence[str]) -> list[str]:
    """Return those of ``images`` that lie beside one of ``sources`` and have its name and a usual ending.

    A usual ending has no digit, and more than half of ``sources``, three at least, have a file with it.
    """
    stems = {image_id(path, "", IMAGE_SUFFIXES) for path in sources}
    endings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # ending -> source -> files
    for path in set(images) - set(sources):
        folder, name = os.path.split(image_id(path, "", IMAGE_SUFFIXES))
        for start in _beginnings(name):
            if os.path.join(folder, start) in stems and _WITHOUT_DIGIT.fullmatch(name[len(start) :]):
                endings[name[len(start) :]][os.path.join(folder, start)].append(path)
    usual = [found for found in endings.values() if len(found) >= _SEVERAL and len(found) > len(stems) / 2]
    return sorted({path for found in usual for paths in found.values() for path in paths})


def _follows(name: str, start: str) -> bool:
    """Whether what follows ``start`` in a name says that the file was made from the image of that name."""
    ending = name[len(start) :]
    return _ENDING.fullmatch(ending) is not None and (_says_derived(ending) or re.search(r"(?i)copy|\dst|\dnd", ending))


def _beginnings(name: str) -> Iterator[str]:
    """The parts of a name before each sign that is no letter or digit."""
    yield from (name[: match.start()] for match in re.finditer(r"[\W_]", name) if match.start())


def _says_derived(text: str) -> bool:
    words = (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text))
    return any(word.startswith(_WORDS) for word in words)


def _has_few_colors(path: str) -> bool:
    """Whether an image holds few colours, as a drawn label does; False if it cannot be read."""
    try:
        image = read_image(path)
    except InputError:
        return False
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    return len(np.unique(small.reshape(-1, 3), axis=0)) <= _FEW_COLORS

"""Labels drawn from annotations that name their classes: the counterpart of a label image with its label map."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ...errors import InputError
from ..loading.plain import LARGEST_IMAGE, PILLOW_ERRORS
from .label_map import IGNORE, NO_CLASS, OTHER, UnlistedValueError, class_index


@dataclass(frozen=True)
class NamedClasses:
    """The class of each name that annotations use, and of the pixels in no annotation."""

    names: tuple[str, ...]
    targets: tuple[int, ...]  # for each name a class index or the ignore value
    other: int | None  # the target of other names; None refuses them
    outside: int  # class index or ignore value of pixels in no annotation

    @property
    def meaning(self) -> tuple:
        """What the rule says. The order of the names does not count."""
        return tuple(sorted(zip(self.names, self.targets, strict=True))), self.other, self.outside

    @classmethod
    def from_yaml(cls, outside: Any, listed: Any, classes: Sequence[str], ignore_value: int) -> NamedClasses:
        """Validate the keys ``outside`` (a class or "ignore") and ``map`` {name: class or "ignore"} of a label rule.

        A name that ``map`` does not list is the class of that name; ``__ignore__`` is no class.

        Raises:
            ValueError: the expected form (to follow "it must be"), with the error in brackets.
        """
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed):
            raise ValueError(f"a mapping from the annotations' names to classes (it is {listed!r})")
        targets: dict[str, int | None] = {NO_CLASS: ignore_value} | {name: i for i, name in enumerate(classes)}
        targets |= {name: class_index(to, classes, ignore_value) for name, to in listed.items()}
        around = class_index(outside, classes, ignore_value)
        for name, target in (*targets.items(), ("outside", around)):
            if target is None:
                to = listed.get(name, outside)
                raise ValueError(f"class names, class indices or {IGNORE} ('{name}' becomes {to!r}, which is none)")
        other = targets.pop(OTHER) if OTHER in listed else None
        return cls(tuple(targets), tuple(targets.values()), other, around)

    def target(self, name: str) -> int:
        """The class index or ignore value of a name; UnlistedValueError if there is none."""
        if name in self.names:
            return self.targets[self.names.index(name)]
        if self.other is None:
            raise UnlistedValueError(
                f"it has the class '{name:.100}', which the data set does not have; add it to the key 'classes' of the "
                f"data set's YAML file, or to 'map' of its labels, as another class or as {IGNORE}"
            )
        return self.other

    def canvas(self, size: tuple[int, int]) -> np.ndarray:
        """A label (H, W), uint8, without annotations."""
        return np.full(size, self.outside, np.uint8)


@dataclass(frozen=True)
class DrawnLabel(ABC):
    """The annotations of one image, small enough to be sent between processes."""

    classes: NamedClasses

    @abstractmethod
    def draw(self, file: str) -> np.ndarray:
        """Classes and ignore value, uint8 (H, W), of the image, from the annotations' ``file``.

        Raises:
            InputError: the annotations cannot be read, or name a class that the data set does not have.
        """


@dataclass(frozen=True)
class DrawnLabels(ABC):
    """The annotations of a data set, in one file or several."""

    classes: NamedClasses
    images: str = ""  # only images in this folder below the image folder are labelled; names and ids count from it

    @abstractmethod
    def of(self, file: str, image: str, name: str, image_id: str) -> DrawnLabel | None:
        """The label of an image in ``file``; None if it has none.

        Args:
            file: the annotations; the folder of the masks if there is one for each class.
            image: the absolute path of the image.
            name, image_id: its path below the image folder, with and without suffix.

        Raises:
            InputError: the file cannot be used.
        """


def lies_outside(points: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether points (n, 2), x and y in pixels, lie a pixel or more outside one side of an image of (H, W)."""
    lowest, highest = points.min(axis=0), points.max(axis=0)
    return bool((highest <= -1).any() or lowest[0] >= size[1] + 1 or lowest[1] >= size[0] + 1)


def inside(name: str, folder: str) -> str | None:
    """The path ``name`` without ``folder`` ("": any), in which it lies; else None."""
    prefix = os.path.join(folder, "")
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def upright_size(image: str) -> tuple[int, int]:
    """Height and width of an image file after its EXIF rotation, from its header."""
    try:
        with Image.open(image) as opened:
            orientation = opened.getexif().get(ImageOps.ExifTags.Base.Orientation, 1)
            return opened.size if orientation in (5, 6, 7, 8) else opened.size[::-1]
    except PILLOW_ERRORS as error:
        raise InputError(f"{image}: the image file cannot be read; replace it.") from error


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width as a file states them; None if it states none, ValueError if they are no size."""
    if height is None and width is None:
        return None
    size = tuple(
        side if type(side) is int else int(side) if type(side) is float and side % 1 == 0 else 0
        for side in (height, width)
    )
    if not (min(size) > 0 and size[0] * size[1] <= LARGEST_IMAGE):
        raise ValueError(f"height {height!r:.40} and width {width!r:.40} are no size of an image")
    return size

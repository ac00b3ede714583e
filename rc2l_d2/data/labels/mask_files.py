"""One mask file for each image and class, as Label Studio exports brush labels: found by a pattern of their names."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ...errors import InputError, first_few
from ..loading.masks import lossy_format
from ..loading.reading import open_label
from .drawn import DrawnLabel, DrawnLabels, inside
from .label_map import UnlistedValueError

_FIELD = re.compile(r"(\{id\}|\{class\}|\{one\}|\*)")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class MaskLabels(DrawnLabels):
    """Files whose path below a folder fits a pattern.

    ``{id}`` stands for an image's id, ``{class}`` for a class name, ``{one}`` for a text that all files of an image
    share, ``*`` for any text without a slash.
    """

    pattern: str = "{id}_{class}.png"
    class_name: str = ""  # of all masks, for a pattern without {class}

    def of(self, file: str, image: str, name: str, image_id: str) -> MaskLabel | None:
        """See :meth:`DrawnLabels.of`."""
        known = None if self.classes.other is not None else self.classes.names
        masks = find_masks(file, self.pattern, (self.class_name,) if self.class_name else known)
        masks = masks.get(inside(image_id, self.images) or "")
        return MaskLabel(self.classes, tuple(masks)) if masks else None


@dataclass(frozen=True)
class MaskLabel(DrawnLabel):
    """The masks of one image, drawn in the order of their names: where two overlap, the later one counts."""

    masks: tuple[tuple[str, str], ...]  # class name and path

    def draw(self, file: str) -> np.ndarray:
        """See :meth:`DrawnLabel.draw`."""
        label: np.ndarray | None = None
        for name, path in self.masks:
            mask = read_mask(path)
            if label is None:
                label = self.classes.canvas(mask.shape)
            if label.shape != mask.shape:
                raise InputError(
                    f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, another of its image "
                    f"{label.shape[1]}x{label.shape[0]}; give all masks the image's size."
                )
            try:
                label[mask] = self.classes.target(name)
            except UnlistedValueError as error:
                raise InputError(f"{path}: {error}.") from error
        return label


@lru_cache(maxsize=16)
def find_masks(folder: str, pattern: str, classes: tuple[str, ...] | None) -> dict[str, list[tuple[str, str]]]:
    """Class name and path of each mask by the id of its image, in the natural order of the paths; searched once.

    Args:
        classes: those that ``{class}`` may stand for, or None for any text. Of a pattern without it, the one class.

    Raises:
        InputError: a mask of another class, or two texts for ``{one}`` in the masks of an image.
    """
    anything, expression = _expression(pattern, None), _expression(pattern, classes)
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    ones: dict[str, str] = {}
    ending = glob.escape(os.path.splitext(pattern)[1])
    paths = glob.glob(os.path.join(glob.escape(folder), "**", f"*{ending}"), recursive=True)
    for path in sorted(paths, key=_natural):
        name = os.path.relpath(path, folder)
        fitting = expression.fullmatch(name)
        if not fitting:
            if anything.fullmatch(name):
                raise InputError(
                    f"{path}: the mask's name fits '{pattern}', but no class of the data set; add the class to the "
                    f"key 'classes' of the data set's YAML file, or to 'map' of its labels, or correct the pattern."
                )
            continue
        fields = fitting.groupdict()
        image_id, one = fields["id"], fields.get("one") or ""
        if ones.setdefault(image_id, one) != one:
            raise InputError(
                f"{path}: the image '{image_id}' has masks of {ones[image_id]} and of {one}, probably of two "
                f"annotators; keep those of one."
            )
        found[image_id].append((fields.get("class") or (classes or ("",))[0], path))
    return dict(found)


def _expression(pattern: str, classes: tuple[str, ...] | None) -> re.Pattern:
    named = {"{id}": "(?P<id>.+?)", "{one}": "(?P<one>[^/]+?)", "*": "[^/]*"}
    longest_first = "|".join(map(re.escape, sorted(classes or (), key=len, reverse=True)))
    named["{class}"] = f"(?P<class>{longest_first or '[^/]+'})"
    seen: set[str] = set()
    parts = []
    for part in _FIELD.split(pattern):
        # A second {id} or {class} is the same text again.
        again = part in seen and part != "*"
        parts.append(f"(?P={part[1:-1]})" if again else named.get(part, re.escape(part)))
        seen.add(part)
    return re.compile("".join(parts))


def _natural(path: str) -> list:
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(path)]


def read_mask(path: str) -> np.ndarray:
    """Read a mask with the values 0 and 255, or 0 and 1, in its colours or in its alpha channel: bool (H, W).

    Raises:
        InputError: it cannot be read, has other values, or colours and alpha differ.
    """

    def read(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        if lossy := lossy_format(image):
            raise InputError(f"{path}: the mask is a {lossy}, which changes values; save masks as PNG.")
        grey = np.array(image.convert("L") if image.mode not in ("1", "L", "P", "I;16", "I") else image)
        return grey, np.array(image.getchannel("A")) if "A" in image.getbands() else None

    grey, alpha = open_label(path, read)
    channels = [channel for channel in (grey, alpha) if channel is not None]
    if alpha is not None:
        # A channel of one value alone holds no mask, if the other has several.
        channels = [channel for channel in channels if np.ptp(channel)] or [grey]
    masks = []
    for channel in channels:
        values = np.unique(channel)
        if not set(values.tolist()) <= {0, 255} and not set(values.tolist()) <= {0, 1}:
            shown = first_few(values.tolist(), 5)
            raise InputError(f"{path}: the mask has the values {shown}; save masks with 0 and 255 alone.")
        masks.append(channel > 0)
    if any((mask != masks[0]).any() for mask in masks):
        raise InputError(f"{path}: the colours and the alpha channel hold different masks; keep one of them.")
    return masks[0]

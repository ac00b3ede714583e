"""Map the values or colours of label files to class indices: the key ``label_map`` of a data set's YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from ...errors import first_few

_FORM = (
    "a mapping from label values (0 to 65535) or colours ('#rrggbb', in quotes), not both, to class names, class "
    "indices or the word ignore, with the keys 'other' for what is not listed and 'tolerance' (1 to 64) for values or "
    "colours that are a few levels off; or the word palette"
)
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
OTHER = "other"
_TOLERANCE = "tolerance"
IGNORE = "ignore"
# labelme's name for regions of no class.
NO_CLASS = "__ignore__"
MAX_TOLERANCE = 64
_MAX_VALUE = 2**16 - 1


class UnlistedValueError(ValueError):
    """A label has a value that its map does not list; the message does not name the file."""


@dataclass(frozen=True)
class LabelMap:
    """The class of each raw value of a label image."""

    keys: tuple[int, ...]  # the listed raw values, or colours as 0xrrggbb
    targets: tuple[int, ...]  # for each key a class index or the ignore value, 0 to 255
    other: int | None  # the target of values that are not listed; None refuses them
    colors: bool  # whether the keys are colours; label files are then read as RGB
    tolerance: int = 0  # what differs from a key by at most so many levels, in each channel, counts as the nearest key
    # Masks of one object (then without keys): the class is 1 where a value reaches the threshold, else 0.
    threshold: float | None = None

    @classmethod
    def of_threshold(cls, threshold: float) -> LabelMap:
        """The map of masks: 1 for values of ``threshold`` and more, 0 for others."""
        return cls((), (0, 1), None, False, threshold=threshold)

    @classmethod
    def from_yaml(
        cls, raw: Any, classes: Sequence[str], palette: Sequence[tuple[int, int, int]], ignore_value: int
    ) -> LabelMap:
        """Validate the key's value ``raw``.

        It is a mapping {raw value or "#rrggbb": class name, class index, "ignore" or the ignore value}, optionally with
        the keys "other" and "tolerance"; or "palette" if labels have the palette's colours, one (r, g, b) per class. A
        class called "ignore" can only be given by its index.

        Raises:
            ValueError: the expected form (to follow "it must be"), with the error in brackets.
        """
        if raw == "palette":
            keys = [red << 16 | green << 8 | blue for red, green, blue in palette]
            _expect(len(set(keys)) == len(keys), "the palette gives two classes one colour")
            return cls(tuple(keys), tuple(range(len(keys))), None, True)
        listed = {key: raw[key] for key in raw if key not in (OTHER, _TOLERANCE)} if isinstance(raw, dict) else {}
        _expect(bool(listed), f"it is {raw!r}")
        tolerance = raw.get(_TOLERANCE, 0)
        _expect(type(tolerance) is int and 0 <= tolerance <= MAX_TOLERANCE, f"tolerance is {tolerance!r}")
        colors = [isinstance(key, str) and _COLOR.fullmatch(key) is not None for key in listed]
        values = [type(key) is int and 0 <= key <= _MAX_VALUE for key in listed]
        for key, is_color, is_value in zip(listed, colors, values, strict=True):
            _expect(is_color or is_value, f"{key!r} is neither a value nor a colour")
        _expect(all(colors) or all(values), "it has both values and colours")
        keys = [int(key[1:], 16) if all(colors) else key for key in listed]
        _expect(len(set(keys)) == len(keys), "it lists a colour twice")
        targets = [_target(key, value, classes, ignore_value) for key, value in listed.items()]
        other = _target(OTHER, raw[OTHER], classes, ignore_value) if OTHER in raw else None
        return cls(tuple(keys), tuple(targets), other, all(colors), tolerance)

    @property
    def meaning(self) -> tuple:
        """What the map says. The order of the values counts only with a tolerance."""
        pairs = tuple(zip(self.keys, self.targets, strict=False))  # of a threshold none
        # There it decides between two keys that are equally near.
        pairs = pairs if self.tolerance else tuple(sorted(pairs))
        threshold = None if self.threshold is None else float(self.threshold)
        return pairs, self.other, self.colors, self.tolerance, threshold

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Numbers (H, W), for a map of colours uint8 (H, W, 3) in RGB order -> classes and ignore value, uint8 (H, W).

        Raises:
            UnlistedValueError: a value or colour is not listed, and there is no ``other``; or a threshold would turn a
                mask of 0 and 1 into one without an object.
        """
        if self.threshold is not None:
            return self._above(raw, self.threshold)
        places, targets = _tables(self)
        if self.colors:
            raw = packed_colors(raw)
        elif raw.dtype not in (np.uint8, np.uint16):
            raw = np.where((raw < 0) | (raw > _MAX_VALUE), _MAX_VALUE + 1, raw)
        found = places[raw]
        if self.other is None and not found.all():
            raise UnlistedValueError(self._unlisted(np.unique(raw[found == 0])))
        return targets[found]

    def _above(self, raw: np.ndarray, threshold: float) -> np.ndarray:
        if 1 < threshold and raw.size and raw.max() == 1 and raw.dtype.kind in "iu":
            raise UnlistedValueError(
                f"the mask holds 0 and 1, which a threshold of {threshold:g} would make empty; set the threshold to 1"
            )
        return (raw >= threshold).astype(np.uint8)

    def _unlisted(self, values: np.ndarray) -> str:
        kind = "colours" if self.colors else "values"
        shown = first_few([f"'#{value:06x}'" if self.colors else value for value in values.tolist()], 5)
        return (
            f"the label has {kind} that label_map does not list ({len(values)}): {shown}; list them in the data set's "
            f"YAML file as classes or as ignore, or add 'other: ignore' there"
        )


def voc_color_map(count: int) -> tuple[tuple[int, int, int], ...]:
    """The first ``count`` (r, g, b) of the Pascal VOC colour map: the bits of the index, spread over the channels."""
    colors = np.zeros((count, 3), int)
    for bit in range(8):
        colors[:, bit % 3] |= (np.arange(count) >> bit & 1) << (7 - bit // 3)
    return tuple(map(tuple, colors.tolist()))


def channels_of(color: int) -> tuple[int, int, int]:
    """Return the levels (red, green, blue) of a colour 0xrrggbb."""
    return color >> 16, color >> 8 & 255, color & 255


def color_text(levels: Iterable[int]) -> str:
    """Return ``#rrggbb`` of the levels (red, green, blue)."""
    return "#{:02x}{:02x}{:02x}".format(*levels)


def packed_colors(image: np.ndarray) -> np.ndarray:
    """Colours as integers 0xrrggbb: uint8 (H, W, 3) in RGB order -> uint32 (H, W)."""
    # Four bytes per pixel, read as one integer: much faster than shifting channels.
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGRA).view("<u4")[..., 0] & 0xFFFFFF


@lru_cache(maxsize=16)
def _tables(label_map: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Raw value -> index in the second table (0: not listed) -> class index.

    The first table has 2**24 entries for colours, but the pages that are all zeros take no memory.
    """
    places = np.zeros(2**24 if label_map.colors else _MAX_VALUE + 2, np.uint16)
    places[list(label_map.keys)] = np.arange(1, len(label_map.keys) + 1)
    if label_map.tolerance:
        _spread(places, label_map)
    return places, np.array([label_map.other or 0, *label_map.targets], np.uint8)


def _spread(places: np.ndarray, label_map: LabelMap) -> None:
    """Enter what lies within the tolerance of a key into the table ``places``, as the nearest key."""
    tolerance, nearest = label_map.tolerance, np.full(len(places), 255, np.uint8)
    for place, key in enumerate(label_map.keys, start=1):
        channels, top = (channels_of(key), 255) if label_map.colors else ((key,), _MAX_VALUE)
        around = [np.arange(max(0, level - tolerance), min(top, level + tolerance) + 1) for level in channels]
        grids = np.meshgrid(*around, indexing="ij")
        distance = np.max([abs(grid - level) for grid, level in zip(grids, channels, strict=True)], axis=0)
        packed = np.sum([grid << 8 * shift for shift, grid in enumerate(reversed(grids))], axis=0)
        closer = distance < nearest[packed]
        places[packed[closer]], nearest[packed[closer]] = place, distance[closer]


def class_index(value: Any, classes: Sequence[str], ignore_value: int) -> int | None:
    """The class index or ignore value that a class name, an index or "ignore" stands for; None for anything else."""
    if value == IGNORE or (type(value) is int and value == ignore_value):
        return ignore_value
    if isinstance(value, str) and value in classes:
        return list(classes).index(value)
    return value if type(value) is int and 0 <= value < len(classes) else None


def _target(key: Any, value: Any, classes: Sequence[str], ignore_value: int) -> int:
    index = class_index(value, classes, ignore_value)
    known = index is not None
    _expect(known, f"{key!r} becomes {value!r}, which is no class name and no index from 0 to {len(classes) - 1}")
    return index


def _expect(condition: bool, found: str) -> None:
    if not condition:
        raise ValueError(f"{_FORM} ({found})")

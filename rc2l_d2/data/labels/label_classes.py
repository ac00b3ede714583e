"""Find the classes in a folder of label images, and name them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...errors import InputError, first_few
from ..datasets.description import voc_color_map
from ..loading.reading import LabelColorError, read_palette, read_raw_label
from .label_map import packed_colors

# Usual value of "no class", and its colour in Pascal VOC's labels (borders).
IGNORE_VALUE, IGNORE_COLOR = 255, 0xE0E0C0
# More unnamed values than this come from masks that were resized smoothly or were JPEGs.
_MAX_UNNAMED = 40
_MAX_CLASSES = 254
_IGNORE = "ignore"

Color = tuple[int, int, int]


@dataclass(frozen=True)
class RawLabels:
    """Values or colours of label files."""

    keys: tuple[int, ...]  # the values that occur, or colours as 0xrrggbb, ascending
    pixels: np.ndarray  # (n, len(keys)) int64, pixels with each key in each file
    colors: bool  # whether the keys are colours
    palette: dict[int, Color]  # the colour of a key: itself, or that in the palettes, which all agree


@dataclass(frozen=True)
class FoundClasses:
    """The classes of a data set."""

    names: tuple[str, ...]  # of the classes that occur
    keys: tuple[int, ...]  # the value or colour of each class in the label files
    ignored: tuple[int, ...]  # values or colours of no class
    colors: bool  # whether keys are colours
    palette: tuple[Color, ...]
    pixels: np.ndarray  # (n, K) int64, pixels of each class in each label
    left_out: tuple[str, ...]  # names of values that no label has

    def label_map(self) -> dict[int | str, int | str] | None:
        """The key ``label_map`` of the data set's YAML file; None if values are class indices already."""
        if not self.colors and self.keys == tuple(range(len(self.keys))) and set(self.ignored) <= {IGNORE_VALUE}:
            return None
        written = {self.key_text(key): name for key, name in zip(self.keys, self.names, strict=True)}
        return written | {self.key_text(key): _IGNORE for key in self.ignored}

    def key_text(self, key: int) -> int | str:
        """A value or colour as written in the YAML file."""
        return _key_text(key, self.colors)


def read_raw_labels(files: Sequence[str], colors: bool = False) -> RawLabels:
    """Read all label files: as colours if a file has colours, or if palettes give one index several colours.

    ``colors`` reads every file so.

    Raises:
        InputError: a file cannot be read, is a JPEG, or has neither colours nor values from 0 to 65535.
    """
    palette: dict[int, Color] = {}
    as_colors = False
    with ThreadPoolExecutor() as pool:
        try:
            if colors:
                raise LabelColorError
            counts = list(pool.map(_counted, files))
            for found, colors in zip(counts, pool.map(read_palette, files), strict=True):
                for key in found if colors is not None else ():
                    if key < len(colors) and palette.setdefault(key, tuple(colors[key].tolist())) != tuple(colors[key]):
                        raise LabelColorError
        except LabelColorError:
            counts, as_colors = list(pool.map(partial(_counted, colors=True), files)), True
    keys = sorted(set().union(*counts))
    if as_colors:
        palette = {key: (key >> 16, key >> 8 & 255, key & 255) for key in keys}
    for path, found in zip(files, counts, strict=True):
        if not as_colors and not 0 <= min(found) <= max(found) < 2**16:
            raise InputError(f"{path}: the label image has values from {min(found)} to {max(found)}; use 0 to 65535.")
    pixels = np.array([[count.get(key, 0) for key in keys] for count in counts], np.int64)
    return RawLabels(tuple(keys), pixels.reshape(len(files), len(keys)), as_colors, palette)


def name_classes(raw: RawLabels, names: Sequence[str], where: str) -> FoundClasses:
    """Name the values or colours of labels in the folder ``where``.

    255 (as a colour, that of Pascal VOC's borders) is no class if there are two others. ``names`` are those of the
    values 0, 1, 2, ... if they cover all that occur, else of the values that occur, in their order; "ignore" marks a
    value as no class. Without names a value v becomes ``class<v>``, the n-th colour ``class<n>``.

    Raises:
        InputError: fewer than two classes, too many values, or a wrong number of names.
    """
    usual = IGNORE_COLOR if raw.colors else IGNORE_VALUE
    keys = [key for key in raw.keys if key != usual]
    if len(keys) < 2:
        keys = list(raw.keys)
    kind = "colours" if raw.colors else "values"
    if len(keys) < 2:
        only = f" ({_key_text(keys[0], raw.colors)})" if keys else ""
        raise InputError(
            f"The labels in {where} hold one value only{only}; a model needs two classes at least, so add labels with "
            f"others."
        )
    if len(keys) > (_MAX_CLASSES if names else _MAX_UNNAMED):
        raise InputError(
            f"The labels in {where} hold {len(keys)} {kind}, probably because masks were resized smoothly or saved as "
            f"JPEG; save them again (nearest neighbour, PNG), or name at most {_MAX_CLASSES} classes with --classes."
        )
    named, left_out = _named(raw, keys, list(names), where)
    kept = tuple(key for key, name in named.items() if name != _IGNORE)
    if len(kept) < 2:
        raise InputError(f"--classes leaves fewer than two classes of the labels in {where}; name two at least.")
    own = tuple(raw.palette.get(key) for key in kept)
    return FoundClasses(
        names=tuple(named[key] for key in kept),
        keys=kept,
        ignored=tuple(key for key in raw.keys if key not in kept),
        colors=raw.colors,
        # The labels' own colours if each class has a different one, else Pascal VOC's.
        palette=own if None not in own and len(set(own)) == len(own) else voc_color_map(len(own)),
        pixels=raw.pixels[:, [raw.keys.index(key) for key in kept]],
        left_out=tuple(left_out),
    )


def _named(raw: RawLabels, keys: list[int], names: list[str], where: str) -> tuple[dict[int, str], list[str]]:
    """The name of each key, and the names left out."""
    if not names:
        return {key: f"class{place if raw.colors else key}" for place, key in enumerate(keys)}, []
    twice = sorted({name for name in names if name != _IGNORE and names.count(name) > 1})
    if twice or not all(names):
        problem = f"names '{twice[0]}' twice" if twice else "has an empty name"
        raise InputError(f"--classes {problem}; give each class a name of its own, separated by commas.")
    if not raw.colors and keys[-1] < len(names):
        left = [name for index, name in enumerate(names) if index not in keys and name != _IGNORE]
        return {key: names[key] for key in keys}, left
    for counted in (keys, raw.keys):
        if len(names) == len(counted):
            return dict(zip(counted, names, strict=True)), []
    kind, shown = "colours" if raw.colors else "values", first_few([_key_text(key, raw.colors) for key in keys])
    raise InputError(
        f"--classes has {len(names)} names, but the labels in {where} hold {len(keys)} {kind} ({shown}); name them in "
        f"this order, with the word ignore for a value of no class."
    )


def _key_text(key: int, colors: bool) -> int | str:
    return f"#{key:06x}" if colors else key


def _counted(path: str, colors: bool = False) -> dict[int, int]:
    """Number of pixels of each value, or colour, of a label file."""
    raw = read_raw_label(path, colors)
    values, counts = np.unique(packed_colors(raw) if colors else raw, return_counts=True)
    return dict(zip(map(int, values), counts.tolist(), strict=True))

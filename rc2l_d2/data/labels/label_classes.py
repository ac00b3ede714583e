"""Which classes a folder of label images holds: found in the files, named by the user."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from ...errors import InputError
from ..datasets.description import voc_color_map
from ..loading.reading import LabelColorError, read_palette, read_raw_label

# What the field leaves out of training: the value, and the colour of borders in Pascal VOC's labels.
IGNORE_VALUE, IGNORE_COLOR = 255, 0xE0E0C0
# More values than this without a name are those of masks that were resized smoothly or were JPEGs, not classes.
_MAX_UNNAMED = 40
_MAX_CLASSES = 254
_SHOWN = 10
_IGNORE = "ignore"

Color = tuple[int, int, int]


@dataclass(frozen=True)
class RawLabels:
    """What label files hold, before anyone says what it means.

    Attributes:
        keys: the values that occur, or colours as 0xrrggbb, ascending.
        pixels: (n, len(keys)) int64, how many pixels of each the file has.
        colors: whether the keys are colours.
        palette: what the files' own palettes say of a key, where they are palette images and agree.
    """

    keys: tuple[int, ...]
    pixels: np.ndarray
    colors: bool
    palette: dict[int, Color]


@dataclass(frozen=True)
class FoundClasses:
    """The classes of a data set.

    Attributes:
        names: of the classes that occur.
        keys: the value or colour of each in the label files.
        ignored: values or colours that are no class.
        colors: whether keys are colours.
        palette: one (r, g, b) a class.
        pixels: (n, K) int64, how many pixels of each class a label has.
        left_out: names that were given for values that no label has.
    """

    names: tuple[str, ...]
    keys: tuple[int, ...]
    ignored: tuple[int, ...]
    colors: bool
    palette: tuple[Color, ...]
    pixels: np.ndarray
    left_out: tuple[str, ...]

    def label_map(self) -> dict[int | str, int | str] | None:
        """The key ``label_map`` of the data set's YAML file; None where values are class indices as they are."""
        if not self.colors and self.keys == tuple(range(len(self.keys))) and set(self.ignored) <= {IGNORE_VALUE}:
            return None
        written = {self.key_text(key): name for key, name in zip(self.keys, self.names, strict=True)}
        return written | {self.key_text(key): _IGNORE for key in self.ignored}

    def key_text(self, key: int) -> int | str:
        """A value or colour as it stands in the YAML file."""
        return _key_text(key, self.colors)


def read_raw_labels(files: Sequence[str]) -> RawLabels:
    """Read all label files: as colours where one holds colours, or where palettes give one index several colours.

    Raises:
        InputError: a file cannot be read, is a JPEG, or holds neither colours nor values from 0 to 65535.
    """
    palette: dict[int, Color] = {}
    try:
        counts = _in_threads(_values_of, files)
    except LabelColorError:
        counts = None
    if counts is not None:
        for found, colors in zip(counts, _in_threads(read_palette, files), strict=True):
            if colors is None:
                continue
            here = {key: tuple(colors[key].tolist()) for key in found if key < len(colors)}
            if any(palette.setdefault(key, color) != color for key, color in here.items()):
                counts = None
                break
    colors = counts is None
    if counts is None:
        counts, palette = _in_threads(_colors_of, files), {}
    keys = sorted(set().union(*counts))
    for path, found in zip(files, counts, strict=True):
        if not colors and not 0 <= min(found) <= max(found) < 2**16:
            raise InputError(f"{path}: the label image has values from {min(found)} to {max(found)}; use 0 to 65535.")
    pixels = np.array([[count.get(key, 0) for key in keys] for count in counts], np.int64)
    return RawLabels(tuple(keys), pixels.reshape(len(files), len(keys)), colors, palette)


def name_classes(raw: RawLabels, names: Sequence[str], where: str) -> FoundClasses:
    """Give the values their names.

    255 (of colours: that of Pascal VOC's borders) is no class where there are two others. Names belong to the values
    0, 1, 2, ... if there is one for each that occurs, and else to the values that occur, in their order; the name
    "ignore" makes a value no class. Without names a value v becomes ``class<v>``, the n-th colour ``class<n>``.

    Args:
        raw: what the labels hold.
        names: of the classes, or none.
        where: the folder, for messages.

    Raises:
        InputError: fewer than two classes, more values than classes can be, names that do not fit their number.
    """
    usual = IGNORE_COLOR if raw.colors else IGNORE_VALUE
    keys = [key for key in raw.keys if key != usual]
    if len(keys) < 2:
        keys = list(raw.keys)
    kind = "colours" if raw.colors else "values"
    if len(keys) < 2:
        only = f" ({_key_text(keys[0], raw.colors)})" if keys else ""
        raise InputError(
            f"The labels in {where} hold one value only{only}; a model needs two classes at least to tell apart."
        )
    if len(keys) > (_MAX_CLASSES if names else _MAX_UNNAMED):
        raise InputError(
            f"The labels in {where} hold {len(keys)} {kind}, as masks do that were resized smoothly or were JPEGs "
            f"once; save them anew (with nearest neighbour, as PNG), or name each class with --classes (at most "
            f"{_MAX_CLASSES})."
        )
    named, left_out = _named(raw, keys, list(names), where)
    chosen = [(key, name) for key, name in named.items() if name != _IGNORE]
    if len(chosen) < 2:
        raise InputError(f"--classes leaves fewer than two classes of the labels in {where}; name two at least.")
    kept = tuple(key for key, _ in chosen)
    columns = [raw.keys.index(key) for key in kept]
    return FoundClasses(
        names=tuple(name for _, name in chosen),
        keys=kept,
        ignored=tuple(key for key in raw.keys if key not in kept),
        colors=raw.colors,
        palette=_palette(raw, kept),
        pixels=raw.pixels[:, columns],
        left_out=tuple(left_out),
    )


def _named(raw: RawLabels, keys: list[int], names: list[str], where: str) -> tuple[dict[int, str], list[str]]:
    """The name of each key, and names that are left."""
    if not names:
        return {key: f"class{place if raw.colors else key}" for place, key in enumerate(keys)}, []
    twice = sorted({name for name in names if name != _IGNORE and names.count(name) > 1})
    if twice or not all(names):
        what = f"names '{twice[0]}' twice" if twice else "has an empty name"
        raise InputError(f"--classes {what}; give each class a name of its own, with commas between.")
    if not raw.colors and keys[-1] < len(names):
        left = [name for index, name in enumerate(names) if index not in keys and name != _IGNORE]
        return {key: names[key] for key in keys}, left
    for counted in (keys, raw.keys):
        if len(names) == len(counted):
            return dict(zip(counted, names, strict=True)), []
    shown = ", ".join(str(_key_text(key, raw.colors)) for key in keys[:_SHOWN])
    shown += ", ..." if len(keys) > _SHOWN else ""
    kind = "colours" if raw.colors else "values"
    raise InputError(
        f"--classes has {len(names)} names, but the labels in {where} hold {len(keys)} {kind} ({shown}); name them in "
        f"this order, with the word ignore for one that is no class."
    )


def _palette(raw: RawLabels, keys: Sequence[int]) -> tuple[Color, ...]:
    """The colours of the labels themselves, if they have a different one for each class; or else Pascal VOC's."""
    own = [(key >> 16, key >> 8 & 255, key & 255) if raw.colors else raw.palette.get(key) for key in keys]
    if None in own or len(set(own)) < len(own):
        return voc_color_map(len(own))
    return tuple(own)


def _key_text(key: int, colors: bool) -> int | str:
    return f"#{key:06x}" if colors else key


def _values_of(path: str) -> dict[int, int]:
    return _counted(read_raw_label(path))


def _colors_of(path: str) -> dict[int, int]:
    # Four bytes a pixel, read as one integer 0x00rrggbb.
    colors = cv2.cvtColor(np.ascontiguousarray(read_raw_label(path, colors=True)), cv2.COLOR_RGB2BGRA)
    return _counted(colors.view("<u4")[..., 0] & 0xFFFFFF)


def _counted(raw: np.ndarray) -> dict[int, int]:
    if raw.dtype == np.uint8:
        counts = np.bincount(raw.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(raw, return_counts=True)
    return dict(zip(map(int, values), counts.tolist(), strict=True))


def _in_threads(function, files: Sequence[str]) -> list:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, files))

"""Values or colours of a folder of label files, before they have a meaning."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from PIL import Image, TiffImagePlugin

from ...errors import InputError
from ..loading.reading import LabelColorError, read_palette, read_raw_label
from .label_map import channels_of, packed_colors

Color = tuple[int, int, int]
_GDAL_NODATA = 42113
_BY_COLOR = (
    "The palettes of the labels give the value {key} several colours, so that colours are the classes here; save all "
    "labels with one palette, or without, if values are."
)


@dataclass(frozen=True)
class RawLabels:
    """Values or colours of label files."""

    keys: tuple[int, ...]  # the values that occur, or colours as 0xrrggbb, ascending
    pixels: np.ndarray  # (n, len(keys)) int64, pixels with each key in each file
    colors: bool  # whether the keys are colours
    palette: dict[int, Color]  # the colour of a key: itself, or that in the palettes, which all agree
    solid: frozenset[int]  # keys that fill a block of 2 x 2 pixels in some file
    notes: tuple[str, ...] = ()  # on how the files were read

    @cached_property
    def totals(self) -> dict[int, int]:
        """Pixels of each key in all files."""
        return dict(zip(self.keys, self.pixels.sum(axis=0).tolist(), strict=True))


def read_raw_labels(files: Sequence[str], colors: bool = False) -> RawLabels:
    """Read all label files: as colours if a file has colours, or if palettes give one index several colours.

    ``colors`` reads every file so.

    Raises:
        InputError: a file cannot be read, is a JPEG, or has neither colours nor values from 0 to 65535; or a palette
            has one colour for two values where colours tell the classes.
    """
    palette: dict[int, Color] = {}
    as_colors = False
    notes: tuple[str, ...] = ()
    with ThreadPoolExecutor() as pool:
        try:
            if colors:
                raise LabelColorError
            counts = list(pool.map(_counted, files))
            palettes = list(pool.map(read_palette, files))
            for (found, _), own in zip(counts, palettes, strict=True):
                for key in found if own is not None else ():
                    if key < len(own) and palette.setdefault(key, tuple(own[key].tolist())) != tuple(own[key]):
                        _check_palettes(files, [found for found, _ in counts], palettes)
                        notes = (_BY_COLOR.format(key=key),)
                        raise LabelColorError
            _check_grey_palettes(files, [found for found, _ in counts], palettes)
        except LabelColorError:
            counts, as_colors = list(pool.map(partial(_counted, colors=True), files)), True
    keys = sorted(set().union(*(found for found, _ in counts)))
    if as_colors:
        palette = {key: channels_of(key) for key in keys}
    for path, (found, _) in zip(files, counts, strict=True):
        if not as_colors and not 0 <= min(found) <= max(found) < 2**16:
            raise InputError(f"{path}: the label image has values from {min(found)} to {max(found)}; use 0 to 65535.")
    pixels = np.array([[found.get(key, 0) for key in keys] for found, _ in counts], np.int64)
    solid = frozenset().union(*(blocks for _, blocks in counts))
    return RawLabels(tuple(keys), pixels.reshape(len(files), len(keys)), as_colors, palette, solid, notes)


def marked_no_data(files: Sequence[str]) -> Counter[int]:
    """How many of the files mark a value as no data, by value, as a GeoTIFF can."""
    counts: Counter[int] = Counter()
    for path in files:
        if not path.lower().endswith((".tif", ".tiff")):
            continue
        with Image.open(path) as image:
            tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
            text = str(tags.get(_GDAL_NODATA, "")).strip("\0 ")
        with contextlib.suppress(ValueError):  # Without the tag, or of another form.
            counts.update([int(value)] if (value := float(text)).is_integer() else [])
    return counts


def _check_palettes(
    files: Sequence[str], found: Sequence[dict[int, int]], palettes: Sequence[np.ndarray | None]
) -> None:
    """Refuse to read colours instead of values where a palette has one colour for two values of its file."""
    for path, keys, own in zip(files, found, palettes, strict=True):
        colors = [tuple(own[key].tolist()) for key in keys if key < len(own)] if own is not None else []
        if len({*colors}) < len(colors):
            raise InputError(
                f"{path}: the label image's palette has one colour for two of its values, and other files have other "
                f"palettes, so that neither values nor colours are the same everywhere; save all with one palette."
            )


def _check_grey_palettes(
    files: Sequence[str], found: Sequence[dict[int, int]], palettes: Sequence[np.ndarray | None]
) -> None:
    """Refuse a palette whose greys are values of files without one: programs that shrink files write such palettes."""
    without = [place for place, own in enumerate(palettes) if own is None]
    values = set().union(*(found[place] for place in without))
    for path, keys, own in zip(files, found, palettes, strict=True):
        for key in keys if own is not None else ():
            level = int(own[key][0]) if key < len(own) and (own[key] == own[key][0]).all() else key
            if level != key and level in values:
                raise InputError(
                    f"{path}: the label image has a palette in which index {key} is the grey {level}, a value of "
                    f"{files[without[0]]} or others without a palette; save all of them with one channel and no "
                    f"palette, or give --threshold 1 if they are masks of one object."
                )


def _counted(path: str, colors: bool = False) -> tuple[dict[int, int], set[int]]:
    """Number of pixels of each value, or colour, of a label file; and those that fill a block of 2 x 2 pixels."""
    raw = read_raw_label(path, colors)
    raw = packed_colors(raw) if colors else raw
    values, counts = np.unique(raw, return_counts=True)
    corner = raw[:-1, :-1]
    filled = (corner == raw[1:, :-1]) & (corner == raw[:-1, 1:]) & (corner == raw[1:, 1:])
    return dict(zip(map(int, values), counts.tolist(), strict=True)), set(np.unique(corner[filled]).tolist())

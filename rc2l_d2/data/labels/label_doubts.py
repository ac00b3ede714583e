"""Signs that the values of label files are not what they seem: refused with the option that settles it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import InputError, first_few
from .class_names import ClassNames, key_text
from .label_map import channels_of
from .raw_labels import RawLabels

# A larger fraction of the pixels is not ignored because of a guess.
MAX_GUESSED = 0.01
# Colours that differ by at most so many levels are one colour that a program has changed.
_OFF = 8
_BLACK_WHITE = (0, 0xFFFFFF)
_CHANNELS = {"red": 16, "green": 8, "blue": 0}  # places of their bits
# Fewer values, or files, do not tell instances from classes: if values count up in each file, and in general.
_SOME_VALUES, _MANY_VALUES, _SOME_FILES = 5, 8, 4
_SOME_NUMBERS = 3  # colours beside one class
_MOST = 0.85  # of the files


def check_usual_ignore(raw: RawLabels, usual: int, names: ClassNames, where: str) -> None:
    """Refuse to take 255 (or the colour of VOC's borders) for no class unasked, where that is not certain.

    Names for all the values 0, 1, 2, ... that occur beside it tell, unless 255 may be the object of a mask: where there
    are two names, or a file with 255 has no other value than 0.

    Raises:
        InputError: it covers more than 1 % of all pixels, or is the object of some masks whose others have 1.
    """
    place = raw.keys.index(usual)
    pixels, text = int(raw.pixels[:, place].sum()), key_text(usual, raw.colors)
    files = int((raw.pixels[:, place] > 0).sum())
    fraction = pixels / raw.pixels.sum()
    found = f"The labels in {where} have {text} on {pixels} pixels ({100 * fraction:.2g} % of all) in {files} files"
    others = [index for index, key in enumerate(raw.keys) if key not in (0, usual)]
    together = (raw.pixels[:, place] > 0) & (raw.pixels[:, others] > 0).any(axis=1)
    if not raw.colors and len(others) == 1 and not together.any():
        raise InputError(
            f"{found}, and {raw.keys[others[0]]} in the others, as masks of one object from two programs have; give "
            f"--threshold 1 if every value above 0 is the object, or --ignore {text} if that is no class."
        )
    complete = not raw.colors and tuple(range(len(names.ordered))) == tuple(key for key in raw.keys if key != usual)
    alone = (raw.pixels[:, place] > 0) & (raw.pixels[:, [0]] > 0).any(axis=1) & ~together
    if fraction > MAX_GUESSED and not (complete and len(names.ordered) > 2 and not alone.any()):
        raise InputError(
            f"{found}, too many to take them for 'no class' unasked; give --ignore {text} if they have no class, a "
            f"name to every value if they have one (--classes '...,{text}=NAME'), or --threshold 128 for masks of one "
            f"object."
        )


def check_colors(raw: RawLabels, keys: Sequence[int], where: str) -> None:
    """Refuse colours that are values: in files beside others with colours, or in one channel.

    Raises:
        InputError: greys that only occur in files without colours, or levels below 64 of one channel.
    """
    if not raw.colors:
        return
    grey = np.array([len(set(channels_of(key))) == 1 for key in raw.keys])
    present = raw.pixels > 0
    has_colors = present[:, ~grey].any(axis=1)
    only_there = present[~has_colors].any(axis=0) & ~present[has_colors].any(axis=0)
    values = [
        key
        for key, alone in zip(raw.keys, only_there, strict=True)
        if alone and key in keys and key not in _BLACK_WHITE
    ]
    if has_colors.any() and values:
        shown = first_few([key & 255 for key in values], 5)
        raise InputError(
            f"The labels in {where} have colours in {has_colors.sum()} files and greys alone ({shown}) in "
            f"{(~has_colors).sum()}, as values do; save all of them alike, or give every colour its name by "
            f"--classes COLOUR=NAME,..."
        )
    used = int(np.bitwise_or.reduce(keys))
    if sum(level > 0 for level in channels_of(used)) == 1 and max(channels_of(used)) < 64:
        channel = next(name for name, shift in _CHANNELS.items() if used >> shift & 255)
        raise InputError(
            f"The labels in {where} have small numbers in the {channel} channel alone, as values do; save that channel "
            f"as the only one, or give every colour its name by --classes COLOUR=NAME,..."
        )


def check_instances(raw: RawLabels, keys: Sequence[int], where: str) -> None:
    """Refuse values without names that number the objects of each file, as in KITTI, Cellpose or COCO's panoptic PNG.

    Raises:
        InputError: values above 255, values that count from the first in each file, or values of a single file each.
    """
    if not raw.colors and len(keys) == 2 and keys[0] == 0 and keys[1] > 255:
        raise InputError(
            f"The labels in {where} have the values 0 and {keys[1]}, as masks of one object do; give --threshold 1, or "
            f"every value its name by --classes VALUE=NAME,..."
        )
    present = raw.pixels[:, [raw.keys.index(key) for key in keys]] > 0
    sign, kind = "", "colour" if raw.colors else "value"
    if len(keys) >= _SOME_VALUES and len(present) >= _SOME_FILES:
        objects = present[:, int(keys[0] == 0) :]  # A file may be full of objects, without the background's 0.
        counting = (objects == np.sort(objects, axis=1)[:, ::-1]).all(axis=1)
        # Of few classes, the last may be missing in some files.
        different = len(np.unique(objects[counting].sum(axis=1))) >= (2 if len(keys) >= _MANY_VALUES else 3)
        several = objects.sum(axis=1) > 1
        # Of many numbers, a file may lack one whose object was removed.
        most = len(keys) >= _MANY_VALUES and several.sum() >= _SOME_FILES and counting[several].mean() >= _MOST
        if not raw.colors and (most or counting.all()) and different:
            sign = "values that count up in each file"
        elif len(keys) >= _MANY_VALUES and (present.sum(axis=0) == 1).mean() > 0.75:
            sign = f"{kind}s of one file each"
    above = [] if raw.colors else [key for key in keys if key > 255]
    if above == [65535] and len(keys) > 2:
        raise InputError(
            f"The labels in {where} have 65535 beside values up to {keys[-2]}; give --ignore 65535 if it is no class, "
            f"or every value its name by --classes VALUE=NAME,..."
        )
    if above:
        sign = f"values above 255 ({first_few(above, 5)})"
    if sign:
        raise InputError(
            f"The labels in {where} have {sign}, as labels of instances do; name a folder of class labels, or give "
            f"every {kind} its name by --classes {kind.upper()}=NAME,..."
        )


def check_smooth_edges(raw: RawLabels, keys: Sequence[int], where: str) -> None:
    """Refuse values between others that only occur along edges, values off by a few levels, and colours of both kinds.

    Raises:
        InputError: names the values with their number of pixels, and --threshold or --tolerance.
    """
    solid = [key for key in keys if key in raw.solid]
    if len(solid) < 2:
        return
    if raw.colors:
        edges, off = _without_area(raw, keys), [key for key in solid if _is_off(raw, key, solid)]
        for channel, shift in _CHANNELS.items():
            # The class in two channels, as in ADE20K's _seg.png.
            if len(off) >= _SOME_NUMBERS and len({key & ~(255 << shift) for key in solid}) <= len(solid) / 2:
                raise InputError(
                    f"The labels in {where} have {len(solid)} colours, of which most differ in the {channel} channel "
                    f"alone, as numbers of objects beside their classes do; save the classes as one channel, or give "
                    f"every class its colour by --classes COLOUR=NAME,..., with --tolerance {_OFF} if other colours "
                    f"are a few levels off from these."
                )
        kind, main = "colours", [key for key in solid if key not in off]
    else:
        edges = [key for key in _without_area(raw, keys) if min(solid) < key < max(solid)]
        # Masks of about 0 and about 255: values near the two ends, and none between.
        ends = all(key < 16 or 240 <= key < 256 for key in keys) and any(240 <= key < max(keys) for key in keys)
        off = [key for key in keys if key not in (min(keys), max(keys))] if ends else []
        kind, main = "values", [key for key in solid if key not in off] or [min(keys), max(keys)]
    doubtful = sorted({*edges, *off})
    if not doubtful:
        return
    pixels = int(raw.pixels[:, [raw.keys.index(key) for key in doubtful]].sum())
    shown = first_few([key_text(key, raw.colors) for key in doubtful], 5)
    number = f"{len(doubtful)} {kind}" if len(doubtful) > 1 else f"1 {kind[:-1]}"
    found = (
        f"The labels in {where} hold {number} on {pixels} pixels ({shown}) that are edges drawn or "
        f"resized smoothly, or a few levels off from others"
    )
    levels = [max(channels_of(key)) if raw.colors else key for key in main]
    example = ",".join(f"{key_text(key, raw.colors)}=NAME" for key in main[:40])
    by_name = f"give a name to every {kind[:-1]} that is a class, as --classes '{example}'"
    if len(main) == 2 and levels[0] != levels[1]:
        middle = (sum(levels) + 1) // 2
        raise InputError(f"{found}; give --threshold {middle} for masks of one object, or else {by_name}.")
    rest = " --ignore other" if edges else ""
    raise InputError(f"{found}; save them without smoothing, or {by_name} with --tolerance {_OFF}{rest}.")


def merged_keys(raw: RawLabels, keys: Sequence[int], named: Sequence[int], tolerance: int) -> list[int]:
    """The keys that remain if a rarer one within the tolerance of another counts as that; ``named`` ones remain."""
    heads = [key for key in keys if key in named]
    for key in sorted(keys, key=lambda key: -raw.totals[key]):
        if key not in heads and all(_distance(key, head, raw.colors) > tolerance for head in [*heads, *named]):
            heads.append(key)
    # A named colour that only occurs a few levels off.
    absent = [key for key in named if key not in keys]
    heads += [head for head in absent if any(_distance(key, head, raw.colors) <= tolerance for key in keys)]
    return sorted(heads)


def _without_area(raw: RawLabels, keys: Sequence[int]) -> list[int]:
    return [key for key in keys if key not in raw.solid]


def _is_off(raw: RawLabels, key: int, keys: Sequence[int]) -> bool:
    """Whether a more frequent colour of ``keys`` is a few levels away."""
    near = (other for other in keys if other != key and _distance(key, other, raw.colors) <= _OFF)
    return any((raw.totals[other], -other) > (raw.totals[key], -key) for other in near)


def _distance(first: int, second: int, colors: bool) -> int:
    """The largest difference in a channel."""
    shifts = (16, 8, 0) if colors else (0,)
    mask = 255 if colors else 2**16 - 1
    return int(np.max([abs((first >> shift & mask) - (second >> shift & mask)) for shift in shifts]))

"""Lists of images, in every format that the field hands on: read, drawn with a seed, and written.

| format | a line |
|---|---|
| VOC's ImageSets, U2PL (VOC), CPS (VOC) | a bare id: ``2007_000032`` |
| U2PL (Cityscapes), lists of file names | an image below the root: ``leftImg8bit/train/jena/jena_...Img8bit.png`` |
| UniMatch, ST++ | image and label below the root, a space between |
| CPS / TorchSemiSeg (Cityscapes) | image and label, a tab between, each with a leading slash |

Which one a file has is seen from its lines. A path may begin with ``./`` or a slash: it counts from the root all the
same. Names may hold spaces where there is only one on a line, or a tab between.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from .packed import PackedStrings

# What a file name ends with; a line's field without any of them is a bare id.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_CHUNK = 1 << 26
_BLANKS = " \t\r"
_NEWLINE, _CARRIAGE_RETURN, _SPACE, _TAB, _SLASH, _DOT = b"\n\r \t/."


@dataclass(frozen=True)
class SplitList:
    """What a list says.

    Attributes:
        images: ids or paths, without leading slash.
        labels: a path for each image, or None where the list names images alone.
        bare: whether ``images`` are ids, to be completed by folder and suffix.
    """

    images: PackedStrings
    labels: PackedStrings | None
    bare: bool


def read_list(file: Path, where: str) -> SplitList:
    """Read a list in any of the formats above. A list of ten million lines takes seconds and little but its own bytes.

    A byte order mark, empty lines, spaces at the ends, Windows line ends and a missing last newline do no harm.

    Args:
        file: the text file.
        where: stands at the beginning of a complaint, to say who asked for the file.

    Raises:
        InputError: unreadable, not UTF-8, a line with more than two fields, a path with "..", or lines of both kinds.
    """
    try:
        # NumPy's copy, because a tensor must be writable.
        buffer = np.fromfile(file, np.uint8)
    except OSError as error:
        raise InputError(
            f"{where}: the list {file} cannot be read ({error.strerror}); put it there or correct its name."
        ) from error
    if buffer[:3].tobytes() == codecs.BOM_UTF8:
        buffer = buffer[3:]
    _require_text(buffer, file, where)
    starts, ends = _lines(buffer)
    fields = _uniform_fields(buffer, starts, ends)
    if fields is None:
        fields = _fields_line_by_line(buffer, starts, ends, file, where)
    images, labels = fields
    with_suffix = images.end_with(IMAGE_SUFFIXES)
    if with_suffix.any() and not with_suffix.all():
        bare, path = images[int(np.argmin(with_suffix))], images[int(np.argmax(with_suffix))]
        raise InputError(
            f"{where}: the list {file} mixes ids ('{bare}') and paths of images ('{path}'); write all of them one way."
        )
    return SplitList(images, labels, bare=not with_suffix.all() or len(images) == 0)


def draw_uniform(count: int, number: int, seed: int) -> np.ndarray:
    """The places, ascending, of ``number`` of ``count`` things drawn with ``seed``; the same on every machine."""
    # RandomState, unlike Generator, promises the same stream in every NumPy: a split must stay what it is.
    return np.sort(np.random.RandomState(seed).permutation(count)[:number])


def draw_balanced(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """As :func:`draw_uniform`, but every class that occurs at all is in one of the drawn images at least.

    Images are taken in the seed's order: first, for each class that is not covered yet (the rarest first), the first
    that has it; then the first of the rest.

    Args:
        presence: (n, K) bool, which image has which class.
        number: images to draw.
        seed: from 0.

    Raises:
        ValueError: so few images can't cover the classes in this order; says how many it takes.
    """
    order = np.random.RandomState(seed).permutation(len(presence))
    shuffled = presence[order]
    chosen: list[int] = []
    for label in np.argsort(presence.sum(axis=0), kind="stable"):
        having = np.flatnonzero(shuffled[:, label])
        if len(having) and not shuffled[chosen, label].any():
            chosen.append(int(having[0]))
    if len(chosen) > number:
        raise ValueError(f"it takes {len(chosen)} images to have every class, more than {number}")
    rest = np.setdiff1d(np.arange(len(order)), chosen)
    return np.sort(order[[*chosen, *rest[: number - len(chosen)]]])


def draw_held_out(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The places, ascending, of at most ``number`` images to hold out, so that the others still have every class.

    Images are taken in the seed's order: first, for each class that is not held out yet (the rarest first), the first
    that has it; then the first of the rest. One that is the last to have some class stays where it is.

    Args:
        presence: (n, K) bool, which image has which class.
        number: images to hold out; fewer where the others would lose a class.
        seed: from 0.
    """
    order = np.random.RandomState(seed).permutation(len(presence))
    staying = presence.sum(axis=0)
    chosen: list[int] = []

    def hold_out(candidates: np.ndarray, at_most: int) -> None:
        for index in candidates.tolist():
            if at_most == 0 or len(chosen) == number:
                return
            if index not in chosen and (staying[presence[index]] > 1).all():
                chosen.append(index)
                staying[:] -= presence[index]
                at_most -= 1

    for label in np.argsort(staying, kind="stable"):
        if not presence[chosen, label].any():
            hold_out(order[presence[order, label]], at_most=1)
    hold_out(order, at_most=number)
    return np.sort(np.array(chosen, np.int64))


def write_list(file: Path, images: Iterable[str], labels: Iterable[str | None]) -> None:
    """Write a list in UniMatch's format: image and label below the root, a space between (a tab where names have one).

    Args:
        file: the text file; its folder must exist.
        images: paths below the root.
        labels: one for each image; None writes the image alone.
    """
    lines = []
    for image, label in zip(images, labels, strict=True):
        separator = "\t" if " " in image + (label or "") else " "
        lines.append(image if label is None else f"{image}{separator}{label}")
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _require_text(buffer: np.ndarray, file: Path, where: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for first in range(0, len(buffer), _CHUNK):
            decoder.decode(buffer[first : first + _CHUNK].tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the list {file} is not UTF-8 text; save it as such.") from error


def _lines(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each line that is not empty begins and ends."""
    breaks = _places(buffer, _NEWLINE)
    starts = np.concatenate([[0], breaks + 1])
    ends = np.concatenate([breaks, [len(buffer)]])
    del breaks
    starts, ends = _filled(starts, ends)
    ends -= buffer[ends - 1] == _CARRIAGE_RETURN
    return _filled(starts, ends)


def _filled(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    filled = ends > starts
    return (starts, ends) if filled.all() else (starts[filled], ends[filled])


def _places(buffer: np.ndarray, byte: int) -> np.ndarray:
    # In chunks: the comparison of all of it would take as much memory as the list.
    found = [np.flatnonzero(buffer[i : i + _CHUNK] == byte) + i for i in range(0, len(buffer), _CHUNK)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _uniform_fields(
    buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[PackedStrings, PackedStrings | None] | None:
    """Images and labels if all lines look alike, so that no Python has to see each of them; else None."""
    if not len(starts):
        return PackedStrings(buffer, starts, ends), None
    spaces, tabs = _places(buffer, _SPACE), _places(buffer, _TAB)
    separators = tabs if len(tabs) else spaces
    if len(separators) == 0:
        fields = [_without_slash(buffer, starts, ends)]
    elif len(separators) == len(starts) and not (len(tabs) and len(spaces)):
        if not ((separators > starts) & (separators < ends - 1)).all():
            return None
        fields = [_without_slash(buffer, starts, separators), _without_slash(buffer, separators + 1, ends)]
    else:
        return None
    if any(field is None for field in fields):
        return None
    if len(fields) == 2 and not all(field.end_with(IMAGE_SUFFIXES).all() for field in fields):
        return None
    return fields[0], fields[1] if len(fields) == 2 else None


def _without_slash(buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> PackedStrings | None:
    """The fields without leading slashes and ``./``; None where one is empty then, or not what normpath would give."""
    while (leading := buffer[starts] == _SLASH).any():
        starts = starts + leading
        if (starts >= ends).any():
            return None
    here = (ends - starts > 2) & (buffer[starts] == _DOT)
    here[here] = buffer[starts[here] + 1] == _SLASH
    starts = starts + 2 * here
    last = buffer[ends - 1]
    if (buffer[starts] == _DOT).any() or (last == _SLASH).any() or (last == _CARRIAGE_RETURN).any():
        return None
    for first in range(0, len(buffer), _CHUNK):
        part = buffer[first : first + _CHUNK + 1]
        if ((part[:-1] == _SLASH) & ((part[1:] == _SLASH) | (part[1:] == _DOT))).any():
            return None
    return PackedStrings(buffer, starts, ends)


def _fields_line_by_line(
    buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, file: Path, where: str
) -> tuple[PackedStrings, PackedStrings | None]:
    images: list[str] = []
    labels: list[str] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        line = buffer[start:end].tobytes().decode().strip(_BLANKS)
        if not line:
            continue
        fields = _split_line(line)
        if len(fields) > 2 or (images and (len(fields) == 2) != bool(labels)):
            problem = "more than an image and a label" if len(fields) > 2 else "not as many fields as the one before"
            raise InputError(f"{where}: the list {file} has a line with {problem}: '{line}'; correct it.")
        fields = [os.path.normpath(field.lstrip("/")) if "/" in field else field for field in fields]
        if any(field.split("/")[0] == ".." for field in fields):
            raise InputError(
                f"{where}: the list {file} names '{line}', outside the data set's folder; give paths below it."
            )
        images.append(fields[0])
        labels += fields[1:]
    return PackedStrings.of(images), PackedStrings.of(labels) if labels else None


def _split_line(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip(_BLANKS) for field in line.split("\t") if field.strip(_BLANKS)]
    # A space separates file names; any other is part of a name.
    fields = [""]
    for word in line.split(" "):
        fields[-1] = f"{fields[-1]} {word}" if fields[-1] else word
        if word.lower().endswith(IMAGE_SUFFIXES):
            fields.append("")
    return [line] if fields[-1] else fields[:-1]

"""Text files that list images, read and written.

A line is a bare id (VOC's ImageSets), an image, or an image and its label with a space (UniMatch) or a tab (CPS)
between them; datasets/README.md has the table. The format is detected from the lines. Paths count from the root, also
with a leading ``./`` or slash. Names may contain spaces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from ...errors import InputError
from .packed import PackedStrings

# A field without any of these suffixes is a bare id.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_BLANKS = " \t\r\n"


def read_list(file: Path, where: str) -> tuple[PackedStrings, PackedStrings | None]:
    """Read a list in any of the formats above; ten million lines take seconds, and little more memory than their bytes.

    A byte order mark, empty lines, spaces at the ends, Windows line ends and a missing last newline are accepted.
    ``where`` begins error messages.

    Returns:
        Images, as ids or paths without leading slash; and a label path for each, None if the list has images alone.

    Raises:
        InputError: unreadable, not UTF-8, a line with more than two fields, a path with "..", or ids mixed with paths.
    """
    try:
        # Lines end with "\n" alone: names may contain other characters that str.splitlines splits at.
        with open(file, encoding="utf-8-sig", newline="\n") as text:
            lines = _parsed(text, f"{where}: the list {file}")
            first = next(lines, [])
            fields = PackedStrings.of(chain(first, chain.from_iterable(lines)))
    except OSError as error:
        raise InputError(
            f"{where}: the list {file} cannot be read ({error.strerror}); put it there or correct its name."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the list {file} is not UTF-8 text; save it as such.") from error
    return (fields.take(np.s_[::2]), fields.take(np.s_[1::2])) if len(first) == 2 else (fields, None)


def write_list(file: Path, images: Iterable[str], labels: Iterable[str | None]) -> None:
    """Write an image and its label (None: the image alone) per line, a space between, or a tab if names have spaces."""
    lines = []
    for image, label in zip(images, labels, strict=True):
        separator = "\t" if " " in image + (label or "") else " "
        lines.append(image if label is None else f"{image}{separator}{label}")
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _parsed(text: Iterable[str], where: str) -> Iterator[list[str]]:
    """The one or two fields of each line that is not empty."""
    first: list[str] = []
    for line in text:
        line = line.strip(_BLANKS)
        if not line:
            continue
        fields = [os.path.normpath(field.lstrip("/")) if "/" in field else field for field in _fields(line)]
        if ".." in line and any(field.split("/")[0] == ".." for field in fields):
            raise InputError(f"{where} names '{line}', outside the data set's folder; give paths below it.")
        if not first:
            first, paths = fields, is_path(fields[0])
        if len(fields) > 2 or len(fields) != len(first):
            problem = "more than an image and a label" if len(fields) > 2 else "not as many fields as the one before"
            raise InputError(f"{where} has a line with {problem}: '{line}'; correct it.")
        if is_path(fields[0]) != paths:
            bare, path = sorted((fields[0], first[0]), key=is_path)
            raise InputError(f"{where} mixes ids ('{bare}') and paths of images ('{path}'); write all of them one way.")
        yield fields


def _fields(line: str) -> list[str]:
    if "\t" not in line and " " not in line:
        return [line]
    if "\t" in line:
        return [field.strip(_BLANKS) for field in line.split("\t") if field.strip(_BLANKS)]
    # A space separates file names; any other is part of a name.
    fields = [""]
    for word in line.split(" "):
        fields[-1] = f"{fields[-1]} {word}" if fields[-1] else word
        if is_path(word):
            fields.append("")
    return [line] if fields[-1] else fields[:-1]


def is_path(field: str) -> bool:
    """Whether the field of a list is a path of an image, not a bare id."""
    return field.lower().endswith(IMAGE_SUFFIXES)

"""Text files that list images, read and written.

A line is a bare id (VOC's ImageSets), an image, or an image and its label with a space (UniMatch), a tab (CPS) or a
comma between them; datasets/README.md has the table. The format is detected from the lines. Paths count from the root,
also with a leading ``./`` or slash. Names may contain spaces. A file with a header is CSV, read by its columns.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from ...errors import InputError
from .packed import PackedStrings

# A field without any of these suffixes is a bare id.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Endings that data sets do not have by default, but the files of a folder may.
OTHER_SUFFIXES = (".jfif", ".jpe", ".gif", ".jp2", ".ppm", ".pgm", ".avif", ".heic", ".heif")
_BLANKS = " \t\r\n"
# Names of columns, in lower case and without "_", " " and "-".
_IMAGE_COLUMNS = {"image", "images", "img", "imagepath", "imgpath", "imagefile", "imagename", "imageid", "id", "file",
                  "filename", "filepath", "path"}  # fmt: skip
_LABEL_COLUMNS = {"label", "labels", "mask", "masks", "annotation", "annotations", "target", "gt", "groundtruth",
                  "segmentation", "labelpath", "maskpath", "labelfile", "maskfile", "segmap"}  # fmt: skip
_SPLIT_COLUMNS = {"split", "set", "fold", "subset", "partition", "phase", "usage", "isval", "isvalid", "istest"}
# Of other columns, those with more than one of these values, or with these names and more than one value.
_FLAG_COLUMNS = {"istrain", "train", "val", "valid", "validation", "test"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}


def read_list(file: Path, where: str) -> tuple[PackedStrings, PackedStrings | None]:
    """Read a list in any of the formats above; ten million lines take seconds, and little more memory than their bytes.

    A byte order mark, empty lines, comments (``# text``), spaces at the ends, Windows line ends and a missing last
    newline are accepted, also UTF-16 with a byte order mark.
    ``where`` begins error messages.

    Returns:
        Images, as ids or paths without leading slash; and a label path for each, None if the list has images alone.

    Raises:
        InputError: unreadable, not UTF-8 or UTF-16, a line with more than two fields, a path with "..", or ids mixed
            with paths.
    """
    try:
        # Lines end with "\n" alone: names may contain other characters that str.splitlines splits at.
        with open(file, encoding=text_encoding(file), newline="\n") as text:
            delimiter = _header_delimiter(text)
            text.seek(0)
            parse = _parsed if delimiter is None else partial(_rows, delimiter=delimiter)
            lines = parse(text, f"{where}: the list {file}")
            first = next(lines, [])
            fields = PackedStrings.of(chain(first, chain.from_iterable(lines)))
    except csv.Error as error:
        raise InputError(f"{where}: the list {file} is not valid CSV ({error}); correct it.") from error
    except OSError as error:
        raise InputError(
            f"{where}: the list {file} cannot be read ({error.strerror}); put it there or correct its name."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the list {file} is not UTF-8 text; save it as UTF-8.") from error
    return (fields.take(np.s_[::2]), fields.take(np.s_[1::2])) if len(first) == 2 else (fields, None)


def text_encoding(file: str | os.PathLike) -> str:
    """UTF-16 where its byte order mark says so, as Windows' editors and shells write; it is no UTF-8."""
    with open(file, "rb") as raw:
        return "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def write_list(file: Path, images: Iterable[str], labels: Iterable[str | None]) -> None:
    """Write :func:`list_text`; raises as it."""
    file.write_bytes(list_text(images, labels))


def list_text(images: Iterable[str], labels: Iterable[str | None]) -> bytes:
    """Return a list: per line an image and its label (None: the image alone), a space between, or a tab for spaces.

    Where the names would not be read back from that, the list is CSV with a header.

    Raises:
        InputError: a name is not UTF-8.
    """
    rows = [[image] if label is None else [image, label] for image, label in zip(images, labels, strict=True)]
    text = "".join(("\t" if any(" " in name for name in row) else " ").join(row) + "\n" for row in rows)
    if not _reads_back(text, rows):
        table = io.StringIO()
        header = ["image", "label"][: len(rows[0])]
        csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
        text = table.getvalue()
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        name = text[error.start : error.end].encode("utf-8", "backslashreplace").decode()
        raise InputError(f"A file name holds {name}, which is not UTF-8; rename the file.") from error


def _reads_back(text: str, rows: list[list[str]]) -> bool:
    try:
        return list(_parsed(io.StringIO(text, newline="\n"), "")) == rows
    except InputError:
        return False


def _header_delimiter(text: TextIO) -> str | None:
    """What separates the columns of a CSV file; None for a file without a header."""
    first = next((line.strip(_BLANKS) for line in text if line.strip(_BLANKS)), "")
    for delimiter in ",;\t":
        try:
            header = next(csv.reader([first], delimiter=delimiter), [])
            if not _IMAGE_COLUMNS & {*map(_column, header)}:
                continue
            # A single word is a header if paths follow, and else an id. (A name in quotes may have several lines.)
            text.seek(0)
            rows = (row for row in csv.reader(text, delimiter=delimiter) if any(map(str.strip, row)))
            _, second = next(rows), next(rows, [])
        except csv.Error:  # a carriage return in a name
            continue
        if len(header) > 1 or any(is_path(cell.strip(_BLANKS)) for cell in second):
            return delimiter
    return None


def _column(cell: str) -> str:
    return cell.lower().translate(str.maketrans("", "", " _-\t\r\n"))


def _rows(text: Iterable[str], where: str, delimiter: str) -> Iterator[list[str]]:
    """The image and, if there is one, the label of each row of a CSV file with a header."""
    rows = (row for row in csv.reader(text, delimiter=delimiter, skipinitialspace=True) if any(map(str.strip, row)))
    header = [cell.strip(_BLANKS) for cell in next(rows)]
    places = [
        [i for i, cell in enumerate(header) if _column(cell) in kind] for kind in (_IMAGE_COLUMNS, _LABEL_COLUMNS)
    ]
    for cell in header:
        if _column(cell) in _SPLIT_COLUMNS:
            raise InputError(f"{where} has the column '{cell}', but all rows would be used; write one list per split.")
    if len(places[0]) > 1 or len(places[1]) > 1:
        raise InputError(f"{where} has several columns of images or labels ({', '.join(header)}); keep one of each.")
    fields_at = [place for found in places for place in found]
    others: dict[int, set[str]] = {place: set() for place in range(len(header)) if place not in fields_at}
    # One of them may have the labels, if no other column has.
    only_files = set() if places[1] else {*others}
    fields: list[str] = []
    for row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{where} has a row of {len(row)} columns below a header of {len(header)}: {row}; correct it."
            )
        fields = [_below_root(row[place].rstrip(_BLANKS), where) for place in fields_at]
        if not all(fields):
            raise InputError(f"{where} has an empty image or label: {row}; complete it or take it out.")
        only_files -= {place for place in only_files if not is_path(row[place].strip(_BLANKS))}
        for place, values in others.items():
            if len(values) <= len(_SPLITS):  # More are no splits.
                values.add(row[place].strip(_BLANKS).lower())
        yield fields
    if fields and (rest := [header[place] for place in sorted(only_files)]):
        raise InputError(
            f"{where} has files in the column '{rest[0]}', which is not used; call it 'label' if these are the labels, "
            "or take it out."
        )
    for place, values in others.items():
        is_flag = _column(header[place]) in _FLAG_COLUMNS and len(values) <= len(_SPLITS)
        if len(values) > 1 and (is_flag or values <= _SPLITS):
            raise InputError(
                f"{where} has splits in the column '{header[place]}', but all rows would be used; write one list each."
            )


def _below_root(field: str, where: str) -> str:
    path = os.path.normpath(field.lstrip("/")) if "/" in field else field
    if path.split("/")[0] == "..":
        raise InputError(f"{where} names '{field}', outside the data set's folder; give paths below it.")
    return path


def _parsed(text: Iterable[str], where: str) -> Iterator[list[str]]:
    """The one or two fields of each line that is not empty."""
    first: list[str] = []
    for line in text:
        line = line.strip(_BLANKS)
        if not line or (line.startswith("# ") and not is_path(line)):
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
    if "\\" in line and "/" not in line:
        line = line.replace("\\", "/")  # of Windows
    for delimiter in ",;" if "\t" not in line else "":
        cells = [cell.strip(_BLANKS) for cell in line.split(delimiter)]
        if len(cells) > 1 and all(map(is_path, cells)):
            return cells
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

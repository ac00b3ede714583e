"""Files that name the classes of label images: of CVAT and Roboflow, JSON, tables of colours, lists of names."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from itertools import pairwise

from ...errors import InputError
from ..datasets.image_lists import text_encoding
from .class_json import read_json_rows
from .label_map import IGNORE, NO_CLASS, color_text

LABELMAP, CLASSES_CSV = "labelmap.txt", "_classes.csv"
TABLE_SUFFIXES = (".txt", ".csv", ".json")
_COLOR = re.compile(r"(\d{1,3}),(\d{1,3}),(\d{1,3})")
# What a line of CVAT's file has and a list of names has not.
_COLOR_FIELD = re.compile(r":[\d ,]+:")
# A line of a list with numbers, as COCO-Stuff's "1: person"; after a space alone, as "3 wheeler", it may be a name.
_NUMBERED = re.compile(r"(\d+)(\s*[:;,=]\s*|\s+)(.*\S)")
# Titles of the columns of a CSV file with colours: of the names, and of the colours in one column or in three.
_NAMES, _COLORS, _CHANNELS = (
    ("name", "class", "class_name", "label"),
    ("color", "colour", "class_color"),
    ("r", "g", "b"),
)
# Names that tools give to pixels of no class.
_NO_CLASS = ("ignored", NO_CLASS)


def read_class_table(path: str | os.PathLike) -> dict[int | str, str]:
    """The class of each value or colour ("#rrggbb"), in the order of the file: a ``label_map`` of a YAML file.

    A line of CVAT's file is ``name:red,green,blue:parts:actions``; a row of Roboflow's CSV file is value, name, below a
    row of titles. CSV files with the columns name, r, g, b (or class_name, class_color) give colours. A text file with
    a name on each line gives those of the values 0, 1, 2, ... (after a first line ``__ignore__``, as labelme counts),
    or of the numbers before them. "ignored" and "__ignore__" are no class. A JSON file has values, numbers or colours
    and names, or names alone.

    Raises:
        InputError: the file cannot be read, a line is neither, or two classes share a value, a colour or a name.
    """
    found: Sequence[tuple[int | str, str, str]]
    is_json = str(path).lower().endswith(".json")
    text = "" if is_json else read_text(path)
    if is_json:
        found = read_json_rows(str(path))[1]
    elif str(path).lower().endswith(".csv"):
        rows = _fields(path, text)
        found = (_color_rows if has_color_columns(text) else _rows)(str(path), rows)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        is_labelmap = os.path.basename(path) == LABELMAP or any(map(_COLOR_FIELD.search, lines))
        found = _colors(str(path), lines) if is_labelmap else _listed(lines)
    table: dict[int | str, str] = {}
    for key, name, line in found:
        if key in table or name in table.values():
            raise InputError(f"{path}: the class table has a value, a colour or a name twice in '{line}'; correct it.")
        table[key] = name
    if not table:
        raise InputError(f"{path}: the class table is empty; export it again.")
    return {key: IGNORE if name in _NO_CLASS else name for key, name in table.items()}


def read_text(path: str | os.PathLike, length: int = -1) -> str:
    """Return the content of a class table, or its first ``length`` characters; InputError if it cannot be read."""
    try:
        with open(path, encoding=text_encoding(path), newline="") as file:
            return file.read(length)
    except OSError as error:
        raise InputError(f"{path}: the class table cannot be read ({error.strerror}); put it there.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the class table is not UTF-8 text; save it as such.") from error


def has_color_columns(text: str) -> bool:
    """Whether the first line of a CSV file is the titles of names and colours."""
    return _color_delimiter(text) is not None


def _color_delimiter(text: str) -> str | None:
    """What separates the columns of a CSV file with names and colours; None for other text."""
    for delimiter in ",;\t":
        titles = next(csv.reader(text.splitlines()[:1], delimiter=delimiter, skipinitialspace=True), [])
        if _color_columns([title.strip().lower() for title in titles]) is not None:
            return delimiter
    return None


def _color_columns(titles: list[str]) -> tuple[int, list[int]] | None:
    """The places of the names and of the colours among the titles of a CSV file."""
    names = [place for place, title in enumerate(titles) if title in _NAMES]
    colors = [place for place, title in enumerate(titles) if title in _COLORS]
    if set(_CHANNELS) <= set(titles):
        colors = [titles.index(channel) for channel in _CHANNELS]
    return (names[0], colors) if names and colors else None


def _fields(path: str | os.PathLike, text: str) -> list[list[str]]:
    try:
        delimiter = _color_delimiter(text) or ","
        rows = list(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: the class table is no CSV file ({error}); correct it.") from error
    return [fields for row in rows if any(fields := [field.strip() for field in row])]


def _color_rows(path: str, rows: list[list[str]]) -> list[tuple[str, str, str]]:
    places = _color_columns([title.lower() for title in rows[0]])
    assert places is not None
    found = []
    for row in rows[1:]:
        line = ", ".join(row)
        values = " ".join(row[place] for place in places[1] if place < len(row)).replace(",", " ").split()
        usable = len(values) == 3 and all(value.isdecimal() and int(value) < 256 for value in values)
        if not usable or not row[places[0]]:
            raise InputError(f"{path}: the row '{line}' is not a name and a colour from 0 to 255; correct it.")
        found.append((color_text(map(int, values)), row[places[0]], line))
    return found


def is_numbered(lines: Sequence[str]) -> bool:
    """Whether each line of a list of names starts with a number: before a space alone, with rising ones from 0 or 1."""
    lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    found = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    numbers = [int(match[1]) for match in found]
    if not found or len(found) < len(lines):
        return False
    rising = numbers[0] in (0, 1) and all(first < second for first, second in pairwise(numbers))
    return rising or all(match[2].strip(" ") for match in found)


def _listed(lines: list[str]) -> list[tuple[int, str, str]]:
    """The names of the values 0, 1, 2, ..., or of their own numbers; labelme's lists start with the value -1."""
    if is_numbered(lines):
        return [(int(match[1]), match[3], line) for line in lines if (match := _NUMBERED.fullmatch(line))]
    names = lines[1:] if lines and lines[0] == NO_CLASS else lines
    return [(value, name, name) for value, name in enumerate(names)]


def _rows(path: str, rows: list[list[str]]) -> list[tuple[int, str, str]]:
    found = []
    for number, fields in enumerate(rows):
        if number == 0 and not fields[0].isdecimal():
            continue
        if len(fields) != 2 or not fields[0].isdecimal() or not fields[1]:
            raise InputError(f"{path}: the row '{', '.join(fields)}' is not a value and a name; correct it.")
        found.append((int(fields[0]), fields[1], ", ".join(fields)))
    return found


def _colors(path: str, lines: list[str]) -> list[tuple[str, str, str]]:
    found = []
    for line in lines:
        # The name may contain colons.
        name, *rest = line.rsplit(":", 3)
        color = _COLOR.fullmatch(rest[0].replace(" ", "")) if len(rest) == 3 else None
        if not color or not name or any(int(value) > 255 for value in color.groups()):
            raise InputError(f"{path}: the line '{line}' is not name:red,green,blue:parts:actions; correct it.")
        found.append((color_text(map(int, color.groups())), name, line))
    return found

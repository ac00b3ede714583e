"""Files that name the classes of label images: CVAT's ``labelmap.txt`` and Roboflow's ``_classes.csv``."""

from __future__ import annotations

import csv
import os
import re

from ...errors import InputError

LABELMAP, CLASSES_CSV = "labelmap.txt", "_classes.csv"
TABLE_SUFFIXES = (".txt", ".csv")
_COLOR = re.compile(r"(\d{1,3}),(\d{1,3}),(\d{1,3})")
# Names that tools give to pixels of no class.
_NO_CLASS = ("ignored", "__ignore__")


def read_class_table(path: str | os.PathLike) -> dict[int | str, str]:
    """The class of each value or colour ("#rrggbb"), in the order of the file: a ``label_map`` of a YAML file.

    A line of CVAT's file is ``name:red,green,blue:parts:actions``; a row of Roboflow's CSV file is value, name, below a
    row of titles. "ignored" and "__ignore__" are no class.

    Raises:
        InputError: the file cannot be read, a line is neither, or two classes share a value, a colour or a name.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            lines = list(csv.reader(text, skipinitialspace=True)) if str(path).endswith(".csv") else list(text)
    except OSError as error:
        raise InputError(f"{path}: the class table cannot be read ({error.strerror}); put it there.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the class table is not UTF-8 text; save it as such.") from error
    read = _rows if str(path).endswith(".csv") else _colors
    table: dict[int | str, str] = {}
    for key, name, line in read(str(path), lines):
        if key in table or name in table.values():
            raise InputError(f"{path}: the class table has a value, a colour or a name twice in '{line}'; correct it.")
        table[key] = name
    if not table:
        raise InputError(f"{path}: the class table is empty; export it again.")
    return {key: "ignore" if name in _NO_CLASS else name for key, name in table.items()}


def _rows(path: str, rows: list[list[str]]) -> list[tuple[int, str, str]]:
    found = []
    for number, row in enumerate(row for row in rows if any(field.strip() for field in row)):
        fields = [field.strip() for field in row]
        if number == 0 and not fields[0].isdecimal():
            continue
        if len(fields) != 2 or not fields[0].isdecimal() or not fields[1]:
            raise InputError(f"{path}: the row '{', '.join(fields)}' is not a value and a name; correct it.")
        found.append((int(fields[0]), fields[1], ", ".join(fields)))
    return found


def _colors(path: str, lines: list[str]) -> list[tuple[str, str, str]]:
    found = []
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        # The name may contain colons.
        name, *rest = line.rsplit(":", 3)
        color = _COLOR.fullmatch(rest[0].replace(" ", "")) if len(rest) == 3 else None
        if not color or not name or any(int(value) > 255 for value in color.groups()):
            raise InputError(f"{path}: the line '{line}' is not name:red,green,blue:parts:actions; correct it.")
        found.append(("#{:02x}{:02x}{:02x}".format(*map(int, color.groups())), name, line))
    return found

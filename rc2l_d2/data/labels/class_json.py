"""JSON files that name classes: by value, by colour, by numbers of their own, or as a list of names."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

from ...errors import InputError
from ..datasets.image_lists import IMAGE_SUFFIXES
from .json_file import read_json
from .label_map import color_text

# Files of this name are class tables. Others may be: those of Supervisely, Label Studio, Mapillary and Hugging Face.
_TABLES = (
    "classes.json", "class_names.json", "labels.json", "id2label.json", "label2id.json", "class_map.json",
    "label_map.json", "color_map.json", "colors.json", "obj_class_to_machine_color.json",
)  # fmt: skip
PROJECT = "meta.json"  # above folders with images and labels
SETTINGS = (PROJECT, "config.json", "config_v1.2.json", "config_v2.0.json")  # of Mapillary Vistas
_PERHAPS = (*SETTINGS, "notes.json", "palette.json", "names.json", "categories.json")
# Where a file holds more than its table.
_WITHIN = ("id2label", "classes", "categories", "labels", "names")
_NAMES, _COLORS, _NUMBERS = ("name", "title", "class", "label"), ("color", "colour"), ("id", "value", "index")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
# The kinds of tables. Numbers may be those of the labels' values, or the program's own.
VALUES, COLORS, NUMBERS, LIST = "values", "colours", "numbers", "list"


def read_json_rows(path: str) -> tuple[str, list[tuple[int | str, str, str]]]:
    """Return the kind of a class table and, for each class, its value, number or colour, its name and its text.

    A list of names has the values 0, 1, 2, ...

    Raises:
        InputError: the file cannot be read, or has another form.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        (key, times), *_ = [*Counter(key for key, _ in pairs).most_common(1), ("", 0)]
        if times > 1:
            raise InputError(f"{path}: the class table has '{key}' twice; correct it.")
        return dict(pairs)

    content = read_json(path, "class table", "put it there", unique)
    places = [content[key] for key in _WITHIN if key in content] if isinstance(content, dict) else []
    # A file of settings may hold numbers by name too, which are no classes.
    settings = os.path.basename(path).lower() in SETTINGS and isinstance(content, dict)
    whole = [] if settings and all(map(_is_number, content.values())) else [content]
    for table in (*places, *whole):
        found = _kind_and_rows(table)
        if found and not any(name.lower().endswith(IMAGE_SUFFIXES) for _, name in found[1]):
            kind, rows = found
            return kind, [(key, name, f"{name}: {key}") for key, name in rows]
    raise InputError(
        f'{path}: the class table has no known form; write it as {{"0": "road", ...}} with the values of the '
        f'labels or as {{"road": [128, 64, 128], ...}} with their colours, or give --classes VALUE=NAME,...'
    )


def is_json_table(path: str) -> bool:
    """Return whether the name of a JSON file, or name and content, show that it is a class table."""
    name = os.path.basename(path).lower()
    if name not in _PERHAPS:
        return name in _TABLES
    try:
        read_json_rows(path)
    except InputError:
        return False
    return True


def _kind_and_rows(table: Any) -> tuple[str, list[tuple[int | str, str]]] | None:
    """The kind of a table and its keys with their names; None for another form."""
    if not table:
        return None
    if isinstance(table, list):
        return _of_list(table)
    if not isinstance(table, dict):
        return None
    keys, values = [*table], [*table.values()]
    if all(map(_is_text, values)) and all(key.isdecimal() for key in keys):
        return VALUES, [(int(key), name) for key, name in table.items()]
    if all(map(_is_text, values)) and all(map(_HEX.fullmatch, keys)):
        return COLORS, [(key.lower(), name) for key, name in table.items()]
    if any(key.isdecimal() or not key.strip() for key in keys):
        return None  # The name of a class is not known.
    if all(map(_is_number, values)):
        return VALUES, [(value, name) for name, value in table.items() if value >= 0]
    colors = [*map(_color, values)]
    return (COLORS, [*zip(colors, keys, strict=True)]) if all(colors) else None  # type: ignore[arg-type]


def _of_list(table: list) -> tuple[str, list[tuple[int | str, str]]] | None:
    if all(map(_is_text, table)):
        return LIST, [*enumerate(table)]
    if not all(isinstance(entry, dict) for entry in table):
        return None
    names = [_field(entry, _NAMES) for entry in table]
    colors = [_color(_field(entry, _COLORS)) for entry in table]
    numbers = [_field(entry, _NUMBERS) for entry in table]
    if not all(map(_is_text, names)):
        return None
    if all(colors):
        return COLORS, [*zip(colors, names, strict=True)]  # type: ignore[arg-type]
    if all(map(_is_number, numbers)):
        return NUMBERS, [*zip(numbers, names, strict=True)]
    return LIST, [*enumerate(names)]


def _field(entry: dict, names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return type(value) is int


def _color(value: Any) -> str | None:
    """``#rrggbb`` of a colour: such a text, or three levels (and opacity)."""
    if isinstance(value, str):
        return value.lower() if _HEX.fullmatch(value) else None
    levels = isinstance(value, list) and len(value) in (3, 4) and all(_is_number(v) and 0 <= v < 256 for v in value)
    return color_text(value[:3]) if levels else None

"""Files beside label images that name their classes: used if they name colours or values, else asked about."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence

from ...errors import InputError
from ..datasets.image_lists import IMAGE_SUFFIXES
from .class_json import COLORS, LIST, NUMBERS, PROJECT, SETTINGS, VALUES, is_json_table, read_json_rows
from .class_names import ClassNames, key_text, parse_key, quoted
from .class_tables import (
    CLASSES_CSV,
    LABELMAP,
    TABLE_SUFFIXES,
    has_color_columns,
    is_numbered,
    read_class_table,
    read_text,
)
from .label_map import IGNORE, color_text
from .raw_labels import RawLabels, read_raw_labels

# Lists of names, one on a line, which do not say what values the names have.
_LISTS = ("classes.txt", "labels.txt", "class_names.txt", "names.txt")
_VERSION = re.compile(r"v\d+\.\d+")
_START = 2**16  # characters of a file that show what it is


def tables_beside(folder: str) -> list[str]:
    """The class tables in a folder of label images and in the folder around it, and that of a project around both."""
    around = os.path.join(folder, os.pardir)
    places, paths = (folder, around), [os.path.normpath(os.path.join(around, os.pardir, PROJECT))]
    for place in places:
        with contextlib.suppress(OSError):  # A folder around one's own may be closed to its user.
            paths += [os.path.normpath(os.path.join(place, name)) for name in sorted(os.listdir(place))]
    return [path for path in paths if _is_table(path) and _is_of_version(path, folder)]


def settings_above(folder: str) -> list[str]:
    """Settings two and three folders above label images that name colours; others may be a model's.

    They are no class table of labels with values.
    """
    above = [os.path.join(folder, *[os.pardir] * levels) for levels in (2, 3)]
    paths = [os.path.normpath(os.path.join(place, name)) for place in above for name in SETTINGS if name != PROJECT]
    return [path for path in paths if _is_table(path) and kind_of(path) == COLORS and _is_of_version(path, folder)]


def _is_of_version(path: str, folder: str) -> bool:
    """Whether a table has no version, or that of a folder between it and the labels, as Mapillary's v2.0."""
    version = _VERSION.search(os.path.basename(path))
    between = [*filter(_VERSION.fullmatch, os.path.relpath(folder, os.path.dirname(path)).split(os.sep))]
    return version is None or not between or version[0] in between


def kind_of(path: str) -> str:
    """Whether a class table has VALUES or COLORS, a LIST of names alone, or NUMBERS that may not be label values."""
    if path.lower().endswith(".json"):
        return read_json_rows(path)[0]
    if os.path.basename(path).lower() in _LISTS:
        return NUMBERS if is_numbered(read_text(path).splitlines()) else LIST
    return COLORS if isinstance(next(iter(read_class_table(path))), str) else VALUES


def _is_table(path: str) -> bool:
    name = os.path.basename(path)
    if not os.path.isfile(path) or not name.lower().endswith(TABLE_SUFFIXES):
        return False
    if name.lower().endswith(".json"):
        return is_json_table(path)
    if name in (LABELMAP, CLASSES_CSV):
        return True
    try:
        # Other CSV files, as of boxes, may be large.
        lines = read_text(path, _START).splitlines()
    except InputError:
        return False
    if name.lower() in _LISTS:  # Or a list of files.
        return any(lines) and not any("/" in line or line.strip().lower().endswith(IMAGE_SUFFIXES) for line in lines)
    return name.lower().endswith(".csv") and has_color_columns(lines[0] if lines else "")


def names_beside(
    raw: RawLabels, files: Sequence[str], where: str, given: ClassNames
) -> tuple[RawLabels, ClassNames, tuple[str, ...]]:
    """Name labels by the table in their folder ``where`` or in the folder around it, unless they have ``given`` names.

    Returns:
        The labels, read again as colours if the table has those of their palettes; their names; notes.

    Raises:
        InputError: a table cannot be read, tables differ, or one does not say which value each name has.
    """
    paths = tables_beside(where) + [path for path in settings_above(where) if _has_colors(raw, read_class_table(path))]
    if given or not paths:
        return raw, given, (f"Not used, as --classes names the classes: {', '.join(paths)}.",) if paths else ()
    tables = {path: read_class_table(path) for path in paths}
    kinds = {path: kind_of(path) for path in paths}
    path = min(paths, key=lambda path: kinds[path] not in (VALUES, COLORS))  # the first that needs no question
    table, kind = tables[path], kinds[path]
    other = next((other for other, names in tables.items() if names != table), None)
    if other is not None:
        raise InputError(f"{path} and {other} name different classes; say which by --classes VALUE=NAME,...")
    colors = kind == COLORS
    known = {parse_key(str(key)): name for key, name in table.items()}
    if colors and not raw.colors and _has_colors(raw, table):
        raw = read_raw_labels(files, colors=True)
    if colors == raw.colors and kind in (VALUES, COLORS):
        return raw, ClassNames((), known, colors, path), (f"The classes have their names from {path}.",)
    names = [quoted(f"{key}={name}" if kind == NUMBERS else name) for key, name in table.items()]
    condition = (
        "the labels have its numbers" if kind == NUMBERS else "its first class is the value 0, the next 1, and so on"
    )
    found = "colours" if raw.colors else "values"
    raise InputError(
        f"{path} names {len(table)} classes, but not which {found} of the labels in {where} they have; give --classes "
        f"'{','.join(names)}' if {condition}, or else each {found[:-1]} its name (as "
        f"--classes '{key_text(raw.keys[0], raw.colors)}=NAME,...', with the word {IGNORE} for no class)."
    )


def _has_colors(raw: RawLabels, table: Mapping[int | str, str]) -> bool:
    """Whether labels have colours, or palettes whose colours all occur in the table."""
    palette = [raw.palette.get(key) for key in raw.keys]
    return raw.colors or all(color and color_text(color) in table for color in palette)

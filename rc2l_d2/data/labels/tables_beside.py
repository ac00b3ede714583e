"""Files beside label images that name their classes: used if they name colours or values, else asked about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from ...errors import InputError
from ..datasets.image_lists import IMAGE_SUFFIXES
from .class_names import ClassNames, parse_key, quoted
from .class_tables import CLASSES_CSV, LABELMAP, has_color_columns, read_class_table, read_text
from .label_map import IGNORE
from .raw_labels import RawLabels, read_raw_labels

# Lists of names, one on a line, which do not say what values the names have.
_LISTS = ("classes.txt", "labels.txt", "class_names.txt", "names.txt")
_START = 2**16  # characters of a file that show what it is


def tables_beside(folder: str) -> list[str]:
    """The class tables in a folder of label images and in the folder around it."""
    places = (folder, os.path.join(folder, os.pardir))
    paths = []
    for place in places:
        with contextlib.suppress(OSError):  # A folder around one's own may be closed to its user.
            paths += [os.path.normpath(os.path.join(place, name)) for name in sorted(os.listdir(place))]
    return [path for path in paths if _is_table(path)]


def is_list(path: str) -> bool:
    """Whether a class table is a list of names alone."""
    return os.path.basename(path).lower() in _LISTS


def _is_table(path: str) -> bool:
    name = os.path.basename(path)
    if not os.path.isfile(path) or not name.lower().endswith((".txt", ".csv")):
        return False
    if name in (LABELMAP, CLASSES_CSV):
        return True
    try:
        # Other CSV files, as of boxes, may be large.
        lines = read_text(path, _START).splitlines()
    except InputError:
        return False
    if is_list(path):  # Or a list of files.
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
    paths = tables_beside(where)
    if given or not paths:
        return raw, given, (f"Not used, as --classes names the classes: {', '.join(paths)}.",) if paths else ()
    tables = {path: read_class_table(path) for path in paths}
    (path, table), *others = tables.items()
    other = next((other for other, names in others if names != table), None)
    if other is not None:
        raise InputError(f"{path} and {other} name different classes; say which by --classes VALUE=NAME,...")
    colors = isinstance(next(iter(table)), str)
    known = {parse_key(str(key)): name for key, name in table.items()}
    palette = [raw.palette.get(key) for key in raw.keys]
    if colors and not raw.colors and all(c and c[0] << 16 | c[1] << 8 | c[2] in known for c in palette):
        raw = read_raw_labels(files, colors=True)
    if colors == raw.colors and not is_list(path):
        return raw, ClassNames((), known, colors, path), (f"The classes have their names from {path}.",)
    names = ",".join(map(quoted, table.values()))
    found = "colours" if raw.colors else "values"
    raise InputError(
        f"{path} names {len(table)} classes, but not which {found} of the labels in {where} they have; give --classes "
        f"'{names}' if its first line is the value 0, the next 1, and so on, or else each {found[:-1]} its name (as "
        f"--classes '{raw.keys[0] if not raw.colors else f'#{raw.keys[0]:06x}'}=NAME,...', with the word {IGNORE} for "
        f"no class)."
    )

"""Label images with a table of their classes: the exports of CVAT and Roboflow in quickstart's LABELS."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import InputError, first_few
from ..loading.reading import read_palette
from .class_names import key_text
from .class_tables import CLASSES_CSV, LABELMAP, read_class_table
from .label_classes import FoundClasses
from .label_map import IGNORE, channels_of, voc_color_map
from .raw_labels import RawLabels, read_raw_labels

_CVAT_MASKS, _ROBOFLOW_SUFFIX = "SegmentationClass", "_mask.png"


@dataclass(frozen=True)
class TabledLabels:
    """Label images with a table of their classes."""

    folder: str
    suffix: str  # of the labels' names, see pair_images
    table: dict[int | str, str]  # see read_class_table
    file: str  # of the table


def find_table(labels: str) -> TabledLabels | None:
    """The masks and the class table of an export of CVAT or Roboflow in the folder ``labels``; None for other folders.

    CVAT's table is above its folder of masks; Roboflow's beside them, one for each split.

    Raises:
        InputError: the table cannot be read, or several differ.
    """
    folder = os.path.normpath(labels)
    if os.path.basename(os.path.abspath(folder)) == _CVAT_MASKS and os.path.isfile(f"{folder}/../{LABELMAP}"):
        folder = os.path.dirname(os.path.abspath(folder))
    if os.path.isfile(os.path.join(folder, LABELMAP)) and os.path.isdir(os.path.join(folder, _CVAT_MASKS)):
        file = os.path.join(folder, LABELMAP)
        return TabledLabels(os.path.join(folder, _CVAT_MASKS), "", read_class_table(file), file)
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "**", CLASSES_CSV), recursive=True))
    if not files:
        return None
    tables = [read_class_table(file) for file in files]
    other = next((file for file, table in zip(files, tables, strict=True) if table != tables[0]), None)
    if other is not None:
        raise InputError(f"{files[0]} and {other} name different classes; give the folder of one of them.")
    return TabledLabels(folder, _ROBOFLOW_SUFFIX, tables[0], files[0])


def name_by_table(raw: RawLabels, labels: TabledLabels) -> FoundClasses:
    """The classes of values or colours that a table names.

    Raises:
        InputError: a value or colour is not in the table, or fewer than two classes occur.
    """
    names = {int(str(key).removeprefix("#"), 16 if isinstance(key, str) else 10): n for key, n in labels.table.items()}
    strange = [key_text(key, raw.colors) for key in raw.keys if key not in names]
    if strange:
        raise InputError(
            f"{labels.file} has no class for {first_few(strange)}, which labels in {labels.folder} hold; correct it, "
            f"or use files of one export."
        )
    kept = tuple(key for key in names if key in raw.keys and names[key] != IGNORE)
    if len(kept) < 2:
        raise InputError(f"The labels in {labels.folder} have fewer than two classes of {labels.file}; add others.")
    ignored = tuple(key for key in raw.keys if key not in kept)
    colors = tuple(channels_of(key) for key in kept)
    return FoundClasses(
        names=tuple(names[key] for key in kept),
        keys=kept,
        ignored=ignored,
        colors=raw.colors,
        palette=colors if raw.colors else voc_color_map(len(kept)),
        pixels=raw.pixels[:, [raw.keys.index(key) for key in kept]],
        left_out=tuple(name for key, name in names.items() if key not in raw.keys and name != IGNORE),
        ignored_pixels={key: raw.totals[key] for key in ignored},
    )


def read_tabled(files: Sequence[str], labels: TabledLabels) -> FoundClasses:
    """Read all label files and name their values or colours by the table.

    A table of colours also names the values 0, 1, 2, ... of grey masks in the order of its lines, as CVAT does.

    Raises:
        InputError: see :func:`name_by_table`; or grey masks could be meant by their colours and by their values.
    """
    if not any(isinstance(key, str) for key in labels.table):
        return name_by_table(read_raw_labels(files), labels)
    by_color = read_raw_labels(files, colors=True)
    lines = replace(labels, table=dict(enumerate(labels.table.values())))
    greys = [key for key in by_color.keys if len(set(channels_of(key))) == 1]
    if len(greys) < len(by_color.keys) or any(read_palette(file) is not None for file in files):
        return name_by_table(by_color, labels)
    as_colors = all(f"#{key:06x}" in labels.table for key in greys)
    as_values = all(key & 255 in lines.table for key in greys)
    differ = any(labels.table.get(f"#{key:06x}") != lines.table.get(key & 255) for key in greys)
    if as_colors and as_values and differ:
        raise InputError(
            f"The grey masks in {labels.folder} can be read by the colours of {labels.file} or by its lines, with "
            f"other classes; save them with colours."
        )
    return name_by_table(by_color, labels) if as_colors else name_by_table(read_raw_labels(files), lines)

"""Class tables beside label images that contradict a data set's YAML file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ...errors import InputError
from ...host import MetadataCatalog
from ..datasets.description import DatasetDefinition, load_definition
from ..labels.class_json import COLORS, LIST, NUMBERS
from ..labels.class_names import key_text
from ..labels.class_tables import read_class_table
from ..labels.label_files import LabelRule
from ..labels.label_map import LabelMap
from ..labels.tables_beside import kind_of, settings_above, tables_beside
from .remark import Remark

_ADVICE = "correct the file that is wrong"


def tables_of(names: Sequence[str]) -> list[Remark]:
    """Return :func:`contradicting_tables` of registered data sets."""
    files = dict.fromkeys(MetadataCatalog.get(name).get("definition_file") for name in names)
    return [remark for file in files if file for remark in contradicting_tables(load_definition(file))]


def contradicting_tables(definition: DatasetDefinition) -> list[Remark]:
    """Return a warning for each table in or around a folder of label images that gives values other classes.

    Names that are no class of the data set do not count: it may join classes, or call them otherwise.
    """
    remarks = []
    for rule in definition.labels:
        folder = os.path.join(definition.root(), rule.folder)
        if not isinstance(rule.label_map, LabelMap | None) or not os.path.isdir(folder):
            continue
        meaning = _meaning(rule, definition.classes)
        if not meaning:
            continue
        values = isinstance(next(iter(meaning)), int)
        for path in tables_beside(folder) + ([] if values else settings_above(folder)):
            try:
                table, kind = read_class_table(path), kind_of(path)
            except InputError:  # It may be another program's.
                continue
            if kind == NUMBERS:  # Another program's, not those of the labels.
                continue
            if values and kind in (LIST, COLORS):
                remarks += _other_order(path, [*table.values()], [*meaning.values()])
            else:
                remarks += _other_classes(path, table, meaning)
    return remarks


def _meaning(rule: LabelRule, classes: Sequence[str]) -> dict[int | str, str]:
    """The class of each value or colour ("#rrggbb"), ascending; none of what is ignored, and of masks of one object."""
    label_map = rule.label_map
    if label_map is None:
        return dict(enumerate(classes))
    assert isinstance(label_map, LabelMap)
    pairs = sorted(zip(label_map.keys, label_map.targets, strict=label_map.threshold is None))
    named = ((key, classes[target]) for key, target in pairs if target < len(classes))
    return {key_text(key, label_map.colors): name for key, name in named}


def _plain(name: str) -> str:
    return name.strip("_ ").casefold()


def _other_classes(path: str, table: dict[int | str, str], meaning: dict[int | str, str]) -> list[Remark]:
    known = set(map(_plain, meaning.values()))
    wrong = [
        f"{key} is {meaning[key]}, there {name}"
        for key, name in table.items()
        if key in meaning and _plain(name) in known and _plain(name) != _plain(meaning[key])
    ]
    what = f"{path} gives label values other classes than the data set's YAML file"
    return [Remark(False, what, tuple(wrong[:10]), len(wrong), _ADVICE)] if wrong else []


def _other_order(path: str, listed: list[str], classes: list[str]) -> list[Remark]:
    """A list of names, or a table of colours, may leave out the background, but has the order of the values."""
    theirs, ours = ([*dict.fromkeys(map(_plain, names))] for names in (listed, classes))
    if [name for name in theirs if name in ours] == [name for name in ours if name in theirs]:
        return []
    what = f"{path} lists the classes in another order than the data set's YAML file"
    return [Remark(False, what, tuple(listed[:10]), len(listed), _ADVICE)]

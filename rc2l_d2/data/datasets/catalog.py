"""Data sets by name: what YAML files describe, entered in Detectron2's catalogs, and read back from them.

Every part of a definition is registered as ``<name>_<part>``; no list is read before the data set is used. Data sets
that others registered (Detectron2's own, or a user's Python) can be named in the same places.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...config_files import find_config_file
from ...errors import InputError
from ...host import CfgNode, DatasetCatalog, MetadataCatalog
from ..labels.label_files import LabelFiles
from .description import DatasetDefinition, load_definition
from .entries import JoinedList
from .splits import Labels, list_entries, part_entries

# Registered name -> its definition and part.
_REGISTERED: dict[str, tuple[DatasetDefinition, str]] = {}


@dataclass(frozen=True)
class DatasetStatus:
    """What can be said about a data set without using it.

    Attributes:
        name: the registered name.
        found: whether its files are all there.
        paths: the folders looked at, ready to be printed.
        num_images: images in it, None where it cannot be read.
        problem: one sentence on what is wrong, None where nothing is.
    """

    name: str
    found: bool
    paths: tuple[str, ...]
    num_images: int | None
    problem: str | None


def register_definition(path: str | os.PathLike) -> DatasetDefinition:
    """Register every part of a data set's YAML file; a second time for one file changes nothing.

    Raises:
        InputError: the file cannot be used, or another file (or other code) has taken one of the names.
    """
    definition = load_definition(path)
    names = {f"{definition.name}_{part}": part for part in definition.parts}
    for name in names:
        known = _REGISTERED.get(name)
        if known is not None and known[0].file.resolve() == definition.file.resolve():
            return known[0]
        if known is not None or name in DatasetCatalog.list():
            owner = known[0].file if known is not None else "other code"
            raise InputError(
                f"{definition.file}: the data set name '{name}' is already taken by {owner}; change the key 'name'."
            )
    for name, part in names.items():
        DatasetCatalog.register(name, partial(part_entries, definition, part, "existing"))
        MetadataCatalog.get(name).set(
            stuff_classes=list(definition.classes),
            stuff_colors=[list(color) for color in definition.palette],
            ignore_label=definition.ignore_value,
            evaluator_type="sem_seg",
            definition_file=str(definition.file),
            label_files=LabelFiles.of(definition),
        )
        _REGISTERED[name] = (definition, part)
    return definition


def register_definitions(cfg: CfgNode) -> None:
    """Register the YAML files of ``cfg.DATASETS.DEFINITIONS`` (relative to the current directory, or the package's).

    Raises:
        InputError: see :func:`register_definition`.
    """
    for path in map(find_config_file, cfg.DATASETS.DEFINITIONS):
        if not Path(path).is_file():
            raise InputError(
                f"DATASETS.DEFINITIONS names {path}, which is not a file (looked at {Path(path).absolute()}); correct "
                f"the path: it counts from the current directory."
            )
        register_definition(path)


def described_part(name: str) -> tuple[DatasetDefinition, str]:
    """The description that a registered data set comes from, and its part in it.

    Raises:
        InputError: unknown name, or a data set that no YAML file describes.
    """
    require_registered(name, "The command line")
    if name not in _REGISTERED:
        raise InputError(f"No YAML file describes the data set '{name}'; name one that has a description.")
    return _REGISTERED[name]


def require_registered(name: str, key: str) -> None:
    """Refuse a name that no data set has.

    Args:
        name: as given by the user.
        key: the configuration key that holds it, for the message.

    Raises:
        InputError: lists the known names, the most similar first.
    """
    known = DatasetCatalog.list()
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    others = sorted(set(known) - set(close))
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(
        f"{key} names the data set '{name}', which is not registered; {meant}Known: {', '.join(close + others)}; a "
        f"data set of your own is described by a YAML file in DATASETS.DEFINITIONS."
    )


def stream_entries(cfg: CfgNode, stream: str) -> Sequence[dict]:
    """The entries that one of the keys of ``cfg.DATASETS`` names, as a stream of images uses them.

    Args:
        cfg: with DATASETS.LABELED_LIST (or UNLABELED_LIST), TRAIN (or UNLABELED) names one data set, for its folders
            and classes, and the list names the images.
        stream: "TRAIN" and "TEST", whose images must all have labels, or "UNLABELED", whose labels are not looked at,
            unless MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS wants those that exist.

    Raises:
        InputError: as :func:`load_dataset`; or a list with not exactly one data set.
    """
    names, key = tuple(cfg.DATASETS[stream]), f"DATASETS.{stream}"
    wanted = "existing" if cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS else "none"
    labels: Labels = "all" if stream != "UNLABELED" else wanted
    list_key, list_file = _list_of(cfg, stream)
    if list_file and len(names) != 1:
        raise InputError(
            f"DATASETS.{list_key} is {list_file}, but {key} is {names}; name there one data set, for its folders and "
            f"classes."
        )
    lists = [load_dataset(name, labels, key, list_file) for name in names]
    return lists[0] if len(lists) == 1 else JoinedList(lists)


def stream_title(cfg: CfgNode, stream: str) -> str:
    """The key of a stream with what it names, for messages: ``DATASETS.TRAIN (streets_labeled)``."""
    return f"DATASETS.{stream} ({_list_of(cfg, stream)[1] or ', '.join(cfg.DATASETS[stream])})"


def _list_of(cfg: CfgNode, stream: str) -> tuple[str, str]:
    """The key below DATASETS that may name a stream's list, and its value; both empty for "TEST"."""
    key = {"TRAIN": "LABELED_LIST", "UNLABELED": "UNLABELED_LIST"}.get(stream, "")
    return key, cfg.DATASETS[key] if key else ""


def load_dataset(name: str, labels: Labels, key: str = "DATASETS", list_file: str = "") -> Sequence[dict]:
    """The dataset dicts of a registered data set, each with "file_name" and "image_id".

    Args:
        name: the registered name.
        labels: whether all dicts must have "sem_seg_file_name", or those whose label exists, or labels are not looked
            for.
        key: the configuration key that names the data set, for messages.
        list_file: a list (DATASETS.LABELED_LIST or UNLABELED_LIST) whose images are taken instead of the part's.

    Raises:
        InputError: unknown name, missing root, missing files, or a list for a data set that has no YAML file.
    """
    require_registered(name, key)
    if name in _REGISTERED:
        definition, part = _REGISTERED[name]
        if list_file:
            list_key = "DATASETS.LABELED_LIST" if labels == "all" else "DATASETS.UNLABELED_LIST"
            return list_entries(definition, list_file, labels, list_key)
        return part_entries(definition, part, labels)
    if list_file:
        raise InputError(
            f"{key} names '{name}', which no YAML file describes, so the list {list_file} cannot be used with it; "
            f"describe the data set (datasets/README.md)."
        )
    try:
        entries = [{"image_id": entry["file_name"], **entry} for entry in DatasetCatalog.get(name)]
    except (OSError, AssertionError) as error:
        # What Detectron2's own loaders raise where the data is not there.
        reason = _one_line(error)
        raise InputError(f"{key}: the data set '{name}' cannot be read ({reason}); check its folder.") from error
    bare = [entry["file_name"] for entry in entries if "sem_seg_file_name" not in entry]
    if labels == "all" and bare:
        raise InputError(
            f"{key}: the data set '{name}' has no semantic labels for {len(bare)} images, {bare[0]} among them; name a "
            f"data set for semantic segmentation."
        )
    return entries


def dataset_status(name: str, labels: Labels = "none", key: str = "DATASETS", list_file: str = "") -> DatasetStatus:
    """Whether a data set is there and where it was looked for; never raises.

    Args:
        name: a registered name, or one that is not (which is then the problem).
        labels, key, list_file: as for :func:`load_dataset`.
    """
    paths: tuple[str, ...] = ()
    if name in _REGISTERED:
        paths = tuple(shown for shown, _ in _REGISTERED[name][0].candidates())
    try:
        entries = load_dataset(name, labels, key, list_file)
        if name in _REGISTERED:
            paths = (str(_REGISTERED[name][0].root()),)
    except Exception as error:  # A status has to be printable whatever a foreign loader raises.
        return DatasetStatus(name, False, paths, None, _one_line(error))
    return DatasetStatus(name, True, paths, len(entries), None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Data sets by name: registered from YAML files in Detectron2's catalogs, and their entries read on use.

Every split of a definition is registered as ``<name>_<split>``. Data sets that other code registered (Detectron2's own,
or a user's Python) can be used in the same places.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import ConcatDataset

from ...config_files import find_config_file
from ...errors import InputError, one_line
from ...host import CfgNode, DatasetCatalog, MetadataCatalog
from ..labels.label_files import LabelFiles
from ..loading.bands import BandRule
from .description import DatasetDefinition, load_definition
from .splits import Labels, image_bands, list_entries, split_entries

# Advice for a training stream without images.
_NO_IMAGE = {
    "TRAIN": "name a data set with labelled images",
    "UNLABELED": "name a split that has some, or train on labels alone with MODEL.META_ARCHITECTURE RegionSegmentor",
}
# Registered name -> its definition and split.
_REGISTERED: dict[str, tuple[DatasetDefinition, str]] = {}


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set can be used."""

    name: str
    found: bool  # whether all of its files exist
    paths: tuple[str, ...]  # the folders searched, for printing
    num_images: int | None  # None if the data set cannot be read
    problem: str | None  # one sentence


def register_definition(path: str | os.PathLike) -> DatasetDefinition:
    """Register every split of a data set's YAML file; a second call for one file changes nothing.

    Raises:
        InputError: the file is invalid, or one of the names is taken by another file or other code.
    """
    definition = load_definition(path)
    names = {f"{definition.name}_{split}": split for split in definition.splits}
    for name in names:
        known = _REGISTERED.get(name)
        if known is not None and known[0].file.resolve() == definition.file.resolve():
            return known[0]
        if known is not None or name in DatasetCatalog.list():
            owner = known[0].file if known is not None else "other code"
            raise InputError(
                f"{definition.file}: the data set name '{name}' is already taken by {owner}; change the key 'name'."
            )
    for name, split in names.items():
        DatasetCatalog.register(name, partial(split_entries, definition, split, "existing"))
        MetadataCatalog.get(name).set(
            stuff_classes=list(definition.classes),
            stuff_colors=[list(color) for color in definition.palette],
            ignore_label=definition.ignore_value,
            ignore_stated=definition.ignore_stated,
            evaluator_type="sem_seg",
            definition_file=str(definition.file),
            label_files=LabelFiles.of(definition),
        )
        _REGISTERED[name] = (definition, split)
    return definition


def register_definitions(cfg: CfgNode) -> None:
    """Register the YAML files of ``cfg.DATASETS.DEFINITIONS`` (relative to the current directory, or the package's)."""
    for path in map(find_config_file, cfg.DATASETS.DEFINITIONS):
        if not Path(path).is_file():
            raise InputError(
                f"DATASETS.DEFINITIONS names {path}, which is not a file (absolute: {Path(path).absolute()}); correct "
                f"the path, which counts from the current directory."
            )
        register_definition(path)


def require_registered(name: str, key: str) -> None:
    """Refuse an unknown name in the configuration's ``key`` with an InputError: the most similar names come first."""
    known = DatasetCatalog.list()
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=5)
    others = sorted(set(known) - set(close))
    suggestion = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(
        f"{key} names the data set '{name}', which is not registered; {suggestion}Known: {', '.join(close + others)}; "
        f"describe a data set of your own in a YAML file and add it to DATASETS.DEFINITIONS."
    )


def stream_entries(cfg: CfgNode, stream: str) -> Sequence[dict]:
    """The entries of all data sets of a stream, ``cfg.DATASETS[stream]``, or of its list of images.

    With a list, DATASETS.LABELED_LIST or UNLABELED_LIST, folders and classes come from the stream's one data set.

    Args:
        cfg: the whole configuration.
        stream: "TRAIN" or "TEST", whose images must all have labels, or "UNLABELED", whose labels are used only with
            MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS, and may be missing.

    Raises:
        InputError: as :func:`load_dataset`; no image to train on; or a list with not exactly one data set.
    """
    names, key = tuple(cfg.DATASETS[stream]), f"DATASETS.{stream}"
    labels: Labels = "all"
    if stream == "UNLABELED":
        labels = "existing" if cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS else "none"
    list_key, list_file = _list_of(cfg, stream)
    if list_file and len(names) != 1:
        raise InputError(
            f"DATASETS.{list_key} is {list_file}, but {key} is {names}; name there one data set, for its folders and "
            f"classes."
        )
    lists = [load_dataset(name, labels, key, list_file) for name in names]
    if stream in _NO_IMAGE and not any(map(len, lists)):
        raise InputError(f"{key} = {names} holds no image; {_NO_IMAGE[stream]}.")
    return ConcatDataset(lists) if len(lists) > 1 else lists[0] if lists else []


def stream_title(cfg: CfgNode, stream: str) -> str:
    """The key of a stream with its value, for messages: ``DATASETS.TRAIN (streets_labeled)``."""
    return f"DATASETS.{stream} ({_list_of(cfg, stream)[1] or ', '.join(cfg.DATASETS[stream])})"


def _list_of(cfg: CfgNode, stream: str) -> tuple[str, str]:
    """The key of a stream's list below DATASETS, and its value; both empty for "TEST"."""
    key = {"TRAIN": "LABELED_LIST", "UNLABELED": "UNLABELED_LIST"}.get(stream, "")
    return key, cfg.DATASETS[key] if key else ""


def load_dataset(name: str, labels: Labels, key: str = "DATASETS", list_file: str = "") -> Sequence[dict]:
    """The dataset dicts of a registered data set, each with "file_name" and "image_id".

    Args:
        name: the registered name.
        labels: which dicts must have "sem_seg_file_name": "all", those whose label exists ("existing"), or "none".
        key: the configuration key with the name, for messages.
        list_file: a list (DATASETS.LABELED_LIST or UNLABELED_LIST) whose images replace those of the split.

    Raises:
        InputError: unknown name, missing root, missing files, or a list for a data set that has no YAML file.
    """
    require_registered(name, key)
    if name in _REGISTERED:
        definition, split = _REGISTERED[name]
        list_key = "DATASETS.LABELED_LIST" if labels == "all" else "DATASETS.UNLABELED_LIST"
        if list_file:
            return list_entries(definition, list_file, labels, list_key)
        return split_entries(definition, split, labels)
    if list_file:
        raise InputError(
            f"{key} names '{name}', which no YAML file describes, so the list {list_file} cannot be used with it; "
            f"describe the data set (datasets/README.md)."
        )
    try:
        entries = [{"image_id": entry["file_name"], **entry} for entry in DatasetCatalog.get(name)]
    except (OSError, AssertionError) as error:  # Detectron2's own loaders raise these if the data is missing.
        raise InputError(
            f"{key}: data set '{name}' cannot be read ({one_line(error, 5000)}); check its folder."
        ) from error
    bare = [entry["file_name"] for entry in entries if "sem_seg_file_name" not in entry]
    if labels == "all" and bare:
        raise InputError(
            f"{key}: the data set '{name}' has no semantic labels for {len(bare)} images, {bare[0]} among them; name a "
            f"data set for semantic segmentation."
        )
    return entries


def dataset_bands(name: str) -> BandRule | None:
    """How the images of a registered data set are read; None for plain 8-bit colour.

    Raises:
        InputError: images that percentiles are computed from cannot be found or read.
    """
    return image_bands(_REGISTERED[name][0]) if name in _REGISTERED else None


def dataset_channels(name: str) -> int:
    """Channels of the images of a registered data set."""
    bands = _REGISTERED[name][0].bands if name in _REGISTERED else None
    return 3 if bands is None else bands.channels


def dataset_status(name: str, labels: Labels = "none", key: str = "DATASETS", list_file: str = "") -> DatasetStatus:
    """Whether a data set can be used, and the folders searched; never raises. Arguments: :func:`load_dataset`."""
    paths: tuple[str, ...] = ()
    if name in _REGISTERED:
        paths = tuple(shown for shown, _ in _REGISTERED[name][0].candidates())
    try:
        entries = load_dataset(name, labels, key, list_file)
        if name in _REGISTERED:
            paths = (str(_REGISTERED[name][0].root()),)
    except Exception as error:  # Loaders of other code may raise anything.
        return DatasetStatus(name, False, paths, None, one_line(error, 5000))
    return DatasetStatus(name, True, paths, len(entries), None)

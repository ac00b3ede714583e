"""Dataset entries by the million: paths stay packed, and each entry's dictionary is made on access."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import ConcatDataset

from ..labels.drawn import DrawnLabels
from ..labels.label_map import LabelMap
from ..loading.bands import BandRule
from .packed import PackedStrings, members, repeated

# Links to one file count as that file in lists of up to so many images; resolving more links takes too long.
_RESOLVE_LIMIT = 100_000


@dataclass(frozen=True, eq=False)
class FileList(Sequence[dict]):
    """Dataset dicts in Detectron2's form, each a few bytes larger than its paths.

    An entry has "file_name" and "image_id" (the path below the image folder, without suffix); with labels also
    "sem_seg_file_name" and "label_map" (None: the label's values are class indices; or the image's annotations).
    "bands" is there with a BandRule.
    """

    images: PackedStrings  # absolute paths
    image_folder: str  # absolute, with "/" at its end
    image_suffixes: Sequence[str]
    labels: PackedStrings | None = None  # a path for each image
    label_maps: Sequence[LabelMap | DrawnLabels | None] = ()  # the different maps in use
    map_of_label: np.ndarray | None = None  # (n,) indices into label_maps, negative if the image has no label
    bands: BandRule | None = None  # how the images are read; None for plain 8-bit colour

    @property
    def label_files(self) -> PackedStrings:
        """The labels of those images that have one."""
        return PackedStrings.of(()) if self.labels is None else self.labels.take(self.map_of_label >= 0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        path = self.images[index]
        entry = {"file_name": path, "image_id": image_id(path, self.image_folder, self.image_suffixes)}
        if self.bands is not None:
            entry["bands"] = self.bands
        if self.labels is not None and self.map_of_label[index] >= 0:
            label, label_map = self.labels[index], self.label_maps[self.map_of_label[index]]
            if isinstance(label_map, DrawnLabels):
                label_map = label_map.of(label, path, path.removeprefix(self.image_folder), entry["image_id"])
            entry |= {"sem_seg_file_name": label, "label_map": label_map}
        return entry


def image_id(path: str, folder: str, suffixes: Sequence[str]) -> str:
    """``path`` without ``folder`` and its longest ending among ``suffixes`` (in any case), or else its extension."""
    lower = path.lower()
    endings = (suffix for suffix in suffixes if lower.endswith(suffix.lower()))
    suffix = max(endings, key=len, default=os.path.splitext(path)[1])
    return path[: len(path) - len(suffix)].removeprefix(folder)


def common_files(first: Sequence[dict], second: Sequence[dict]) -> list[str]:
    """The images that both lists have, sorted. In lists of up to 100,000, links count as the files they lead to."""
    return _common(_paths(first), _paths(second))


def labels_among(labelled: Sequence[dict], images: Sequence[dict]) -> list[str]:
    """The images of one list that are label files of another, sorted; links as in :func:`common_files`."""
    return _common(_paths(labelled, "sem_seg_file_name"), _paths(images))


def repeated_files(entries: Sequence[dict]) -> list[str]:
    """The images that a list has more than once, sorted; links as in :func:`common_files`."""
    paths = _paths(entries)
    if len(entries) <= _RESOLVE_LIMIT:
        paths = [PackedStrings.of(os.path.realpath(path) for strings in paths for path in strings)]
    return repeated(paths)


def _common(first: list[PackedStrings], second: list[PackedStrings]) -> list[str]:
    few, many = sorted((first, second), key=lambda lists: sum(map(len, lists)))
    names = {name for paths in few for path in paths for name in (path, os.path.realpath(path))}
    if sum(map(len, many)) <= _RESOLVE_LIMIT:
        return sorted(path for paths in many for path in paths if path in names or os.path.realpath(path) in names)
    return sorted(path for paths in many for path in paths.take(members(paths, names)))


def _paths(entries: Sequence[dict], key: str = "file_name") -> list[PackedStrings]:
    """The paths at ``key``, "file_name" or "sem_seg_file_name", of all entries."""
    if isinstance(entries, FileList):
        return [entries.images if key == "file_name" else entries.label_files]
    if isinstance(entries, ConcatDataset):
        return [paths for joined in entries.datasets for paths in _paths(joined, key)]
    return [PackedStrings.of(entry[key] for entry in entries if key in entry)]

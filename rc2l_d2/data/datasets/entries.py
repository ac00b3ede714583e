"""Dataset entries by the million: the paths packed, the dictionaries made when they are asked for."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ..labels.label_map import LabelMap
from .packed import PackedStrings, members, repeated

# Up to so many images, links to one file count as that file; resolving more of them would take too long.
_RESOLVE_LIMIT = 100_000


class FileList(Sequence[dict]):
    """Dataset dicts in Detectron2's form, a few bytes more than their paths each.

    An entry has "file_name" and "image_id" (the path below the image folder, without suffix); with labels also
    "sem_seg_file_name" and "label_map" (None: the label's values are the classes).
    """

    def __init__(
        self,
        images: PackedStrings,
        image_folder: str,
        image_suffixes: Sequence[str],
        labels: PackedStrings | None = None,
        label_maps: Sequence[LabelMap | None] = (),
        map_of_label: np.ndarray | None = None,
    ):
        """
        Args:
            images: absolute paths.
            image_folder, image_suffixes: what an id has not: the absolute folder, with "/", and one of the endings.
            labels: a path for each image.
            label_maps: the different ones in use.
            map_of_label: (n,) indices into ``label_maps``, negative where the image has no label.
        """
        self.images = images
        self._folder, self._suffixes = image_folder, tuple(sorted(image_suffixes, key=len, reverse=True))
        self._labels, self._label_maps, self._map_of_label = labels, tuple(label_maps), map_of_label

    @property
    def label_files(self) -> PackedStrings:
        """The labels of those images that have one."""
        return PackedStrings.of(()) if self._labels is None else self._labels.take(self._map_of_label >= 0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        path = self.images[index]
        entry = {"file_name": path, "image_id": image_id(path, self._folder, self._suffixes)}
        if self._labels is not None and self._map_of_label[index] >= 0:
            entry["sem_seg_file_name"] = self._labels[index]
            entry["label_map"] = self._label_maps[self._map_of_label[index]]
        return entry


class JoinedList(Sequence[dict]):
    """Several lists of entries, one after the other, without a copy."""

    def __init__(self, lists: Sequence[Sequence[dict]]):
        self.lists = tuple(lists)
        self._ends = list(accumulate(len(part) for part in self.lists))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        part = bisect_right(self._ends, index)
        return self.lists[part][index - (self._ends[part - 1] if part else 0)]


def image_id(path: str, folder: str, suffixes: Sequence[str]) -> str:
    """``path`` without ``folder`` and the first of ``suffixes`` that it ends with (in any case), or its extension."""
    path = path.removeprefix(folder)
    lower = path.lower()
    suffix = next((ending for ending in suffixes if lower.endswith(ending.lower())), os.path.splitext(path)[1])
    return path[: len(path) - len(suffix)]


def common_files(first: Sequence[dict], second: Sequence[dict]) -> list[str]:
    """The images that both lists have, sorted. In lists of up to 100,000, links count as what they lead to."""
    return _common(_paths(first), _paths(second))


def labels_among(labelled: Sequence[dict], images: Sequence[dict]) -> list[str]:
    """The images of one list that are label files of another, sorted; links as in :func:`common_files`."""
    return _common(_label_paths(labelled), _paths(images))


def _common(first: list[PackedStrings], second: list[PackedStrings]) -> list[str]:
    few, many = sorted((first, second), key=lambda lists: sum(map(len, lists)))
    names: set[str] = set()
    for paths in few:
        for path in paths:
            names |= {path, os.path.realpath(path)}
    if sum(map(len, many)) <= _RESOLVE_LIMIT:
        return sorted(path for paths in many for path in paths if path in names or os.path.realpath(path) in names)
    return sorted(paths[int(index)] for paths in many for index in np.flatnonzero(members(paths, names)))


def repeated_files(entries: Sequence[dict]) -> list[str]:
    """The images that a list has more than once, sorted; links as in :func:`common_files`."""
    paths = _paths(entries)
    if len(entries) <= _RESOLVE_LIMIT:
        paths = [PackedStrings.of(os.path.realpath(path) for part in paths for path in part)]
    return repeated(paths)


def _paths(entries: Sequence[dict]) -> list[PackedStrings]:
    if isinstance(entries, FileList):
        return [entries.images]
    if isinstance(entries, JoinedList):
        return [paths for part in entries.lists for paths in _paths(part)]
    return [PackedStrings.of(entry["file_name"] for entry in entries)]


def _label_paths(entries: Sequence[dict]) -> list[PackedStrings]:
    if isinstance(entries, FileList):
        return [entries.label_files]
    if isinstance(entries, JoinedList):
        return [paths for part in entries.lists for paths in _label_paths(part)]
    return [PackedStrings.of(entry["sem_seg_file_name"] for entry in entries if "sem_seg_file_name" in entry)]

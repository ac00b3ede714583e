"""The labelled images that a model has learned from, stored with its weights.

A test on them is noticed, and a resumed run that reads others, or reads them otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from ..errors import first_few

logger = logging.getLogger(__name__)

_OF_LAST_RUN = ("names", "readings")


class LearnedImages:
    """Hashes of the paths of labelled training images, those of resumed runs included.

    Paths themselves would tell of the machine that trained. Images that were moved, or that lie on another machine, are
    not recognised.
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        # Of the last run, by names below the image folder, since a resumed run may find its images elsewhere.
        self._names: set[int] = set()
        self._readings: set[int] = set()

    def add(self, entries: Iterable[Mapping], resumed: bool = False) -> None:
        """Add the images of dataset dicts.

        With ``resumed``, log a warning if they are not those of the run so far, or have another label map or bands.
        """
        names, readings, new, previous = set[int](), set[int](), dict[int, str](), None
        for entry in entries:
            self._hashes.add(_hash(entry["file_name"]))
            names.add(name := _digest(str(entry["image_id"])))
            if resumed and name not in self._names:
                new[name] = entry["file_name"]
            if (reading := _reading(entry)) != previous:  # A long label map takes time.
                readings.add(_digest(repr(reading)))
                previous = reading
        gone = self._names - names
        if resumed and self._names and (new or gone):
            logger.warning(
                "The run resumes with other labelled images than before: %d of %d are new%s, and %d are no longer "
                "used.",
                len(new), len(names), f" ({first_few([*new.values()], 3)})" if new else "", len(gone),
            )  # fmt: skip
        if resumed and self._readings and readings != self._readings:
            logger.warning(
                "The run resumes with another label map, other bands or another range of DATASETS.TRAIN than before, "
                "and keeps what it has learned with these; start a new run if they were wrong."
            )
        self._names, self._readings = names, readings

    def warn_of_test(self, name: str, entries: Sequence[Mapping]) -> None:
        """Log a warning if some of the ``entries`` of the test data set ``name`` are among the images."""
        found = [entry["file_name"] for entry in entries if _hash(entry["file_name"]) in self._hashes]
        if found:
            logger.warning(
                "%d of the %d images of '%s' are labelled images that these weights were trained on (%s), so that its "
                "results are too high; take them out of DATASETS.TEST, or train again without them.",
                len(found), len(entries), name, first_few(found, 3),
            )  # fmt: skip

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"hashes": self._hashes, "names": self._names, "readings": self._readings}
        return {key: torch.tensor(sorted(part), dtype=torch.int64) for key, part in parts.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._hashes |= set(state["hashes"].tolist())
        # An earlier version of the project stored the hashes alone.
        self._names, self._readings = (set(state[key].tolist()) if key in state else set() for key in _OF_LAST_RUN)


def _reading(entry: Mapping) -> object:
    """What tells how the files of an entry are read; annotations of images differ, their classes should not."""
    label_map = entry.get("label_map")
    return getattr(label_map, "classes", label_map), entry.get("bands")


def _hash(path: str) -> int:
    folder, name = os.path.split(path)
    return _digest(os.path.join(_real_path(folder), name))


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4096)
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)

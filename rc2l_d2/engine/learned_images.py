"""The labelled images that a model has learned from, stored with its weights: a test on them is noticed."""

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


class LearnedImages:
    """Hashes of the paths of labelled training images, those of resumed runs included.

    Paths themselves would tell of the machine that trained. Images that were moved, or that lie on another machine, are
    not recognised.
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, entries: Iterable[Mapping]) -> None:
        """Add the images of dataset dicts."""
        self._hashes |= {_hash(entry["file_name"]) for entry in entries}

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
        return {"hashes": torch.tensor(sorted(self._hashes), dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._hashes |= set(state["hashes"].tolist())


def _hash(path: str) -> int:
    folder, name = os.path.split(path)
    real = os.path.join(_real_path(folder), name).encode(errors="surrogateescape")
    return int.from_bytes(blake2b(real, digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4096)
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)

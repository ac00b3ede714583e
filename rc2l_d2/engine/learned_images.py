"""The labelled images that a model has learned from, stored with its weights.

A test on them is noticed, and a resumed run that reads others, or reads them otherwise.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from ..data.labels.drawn import DrawnLabel
from ..data.labels.label_map import LabelMap
from ..data.loading.bands import BandRule
from ..errors import first_few

logger = logging.getLogger(__name__)


class LearnedImages:
    """Hashes of the paths of labelled training images, those of resumed runs included.

    Paths themselves would tell of the machine that trained. Images that were moved, or that lie on another machine, are
    not recognised.
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        # The last run's images, by names below the image folder, since a resumed run may find them elsewhere; for each
        # a hash of how it is read. (Data sets registered in Python may have no such names, but paths alone.)
        self._run: dict[int, int] = {}

    def add(self, entries: Iterable[Mapping], resumed: bool = False) -> None:
        """Add the images of dataset dicts.

        With ``resumed``, log a warning if they are not those of the run so far, or if its images now have another label
        map, other bands or another range. Label files themselves are not compared.
        """
        run, files, previous, reading = dict[int, int](), dict[int, str](), None, 0
        times = Counter[str]()  # Several data sets may have an image of one name.
        for entry in entries:
            self._hashes.add(_hash(entry["file_name"]))
            name = str(entry["image_id"])
            times[name] += 1
            if (rules := (entry.get("label_map"), entry.get("bands"))) != previous:  # To hash a long map takes time.
                previous, reading = rules, _digest(repr(_meaning(*rules)))
            key = _digest(f"{name} {times[name]}")
            run[key] = reading
            if resumed and key not in self._run:
                files[key] = entry["file_name"]
        if resumed and self._run:
            self._warn_of_changes(run, [*files.values()])
        self._run = run

    def _warn_of_changes(self, run: dict[int, int], new: list[str]) -> None:
        gone = len(self._run.keys() - run.keys())
        if new or gone:
            logger.warning(
                "The run resumes with other labelled images than before: of %d, %d are new%s; and %d are no longer "
                "used.",
                len(run), len(new), f" ({first_few(new, 3)})" if new else "", gone,
            )  # fmt: skip
        changed = sum(run[key] != self._run[key] for key in run.keys() & self._run.keys())
        if changed:
            logger.warning(
                "The run resumes with another label map, other bands or another range for %d of its labelled images, "
                "and keeps what it has learned with the former; start a new run if they were wrong.", changed,
            )  # fmt: skip

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
        parts = {"hashes": sorted(self._hashes), "names": [*self._run], "readings": [*self._run.values()]}
        return {key: torch.tensor(part, dtype=torch.int64) for key, part in parts.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._hashes |= set(state["hashes"].tolist())
        names, readings = (state.get(key, torch.empty(0)).tolist() for key in ("names", "readings"))
        self._run = dict(zip(names, readings, strict=True))  # Empty in files of an earlier version of the project.


def _meaning(label_map: LabelMap | DrawnLabel | None, bands: BandRule | None) -> tuple:
    """What tells how the files of an image are read; the annotations themselves do not count."""
    rule = label_map.classes if isinstance(label_map, DrawnLabel) else label_map
    # A data set registered in Python may have a label map of its own kind.
    meaning = getattr(rule, "meaning", type(rule).__qualname__)
    return meaning, bands and (bands.bands, [[*map(float, pair)] for pair in bands.ranges])


def _hash(path: str) -> int:
    folder, name = os.path.split(path)
    return _digest(os.path.join(_real_path(folder), name))


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4096)
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)

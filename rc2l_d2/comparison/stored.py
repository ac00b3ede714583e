"""Results of a run in its folder or in a record, and the check that its configuration has not changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..config import add_rc2l_config
from ..engine import RC2LTrainer, learning_rate
from ..engine.resumed import WITHOUT_EFFECT
from ..engine.setup import plain_settings
from ..engine.whole_files import write_text
from ..errors import InputError
from ..host import CfgNode, get_cfg
from ..reporting.provenance import read_starts
from ..reporting.run_folder import STUDENT, TEACHER, collect_scalars, read_entries

# Training on labels alone reads none of these (prefixes), except for the teacher's decay.
_UNLABELED_ONLY = tuple("""
    MODEL.RC2L. MODEL.PIXEL. MODEL.UNIMATCH. MODEL.SEMI_SUPERVISED. INPUT.STRONG_ DATASETS.UNLABELED
    SOLVER.IMS_PER_BATCH_UNLABELED
""".split())  # fmt: skip
_EMA_DECAY = "MODEL.SEMI_SUPERVISED.EMA_DECAY"
# A record keeps what tables need: prefixes of names in metrics.json, and keys of starts.json.
_METRICS = ("iteration", "time", f"{STUDENT}/mIoU", f"{STUDENT}/IoU-", f"{TEACHER}/mIoU", f"{TEACHER}/IoU-")
PROVENANCE = ("commit", "host", "hardware", "torch", "date")


@dataclass(frozen=True)
class StoredRun:
    """Results of a run, finished or not: file of its settings, flat settings, starts and lines of metrics.json."""

    source: Path
    settings: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, float]]

    @property
    def max_iter(self) -> int:
        """Iterations of the whole run."""
        return self.settings["SOLVER.MAX_ITER"]

    @cached_property
    def scalars(self) -> dict[str, dict[int, float]]:
        """Name -> finished iterations -> value."""
        return collect_scalars(self.metrics, self.max_iter)

    @property
    def finished(self) -> bool:
        """Whether student and teacher were evaluated after the last iteration."""
        return all(self.max_iter in self.scalars.get(f"{task}/mIoU", {}) for task in (STUDENT, TEACHER))

    def write_record(self, file: Path) -> None:
        """Write a record, small enough to commit, from which the tables can be made again."""
        metrics = [{key: value for key, value in entry.items() if key.startswith(_METRICS)} for entry in self.metrics]
        attempts = [{key: attempt.get(key) for key in PROVENANCE} for attempt in self.attempts]
        record = {"settings": self.settings, "attempts": attempts, "metrics": [row for row in metrics if len(row) > 1]}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record, indent=0, ensure_ascii=False) + "\n")


def read_folder(folder: Path) -> StoredRun | None:
    """Read the OUTPUT_DIR of a run; None if nothing has started there.

    Raises:
        InputError: config.yaml is damaged, or missing beside metrics.json.
    """
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    if not config.exists() and not metrics.exists():
        return None
    try:
        settings = compared_settings(CfgNode(yaml.safe_load(config.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise InputError(f"{config} cannot be read; delete {folder} to train again.") from error
    return StoredRun(config, settings, read_starts(folder), read_entries(metrics))


def read_record(file: Path) -> StoredRun | None:
    """Read a record; None if the file does not exist.

    Raises:
        InputError: the file is not a record.
    """
    if not file.exists():
        return None
    # Keys that all semi-supervised methods share used to be in MODEL.RC2L.
    shared = {f"MODEL.RC2L.{name}" for name in add_rc2l_config(get_cfg()).MODEL.SEMI_SUPERVISED}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        settings = {key.replace("RC2L", "SEMI_SUPERVISED") if key in shared else key: value
                    for key, value in record["settings"].items()}  # fmt: skip
        return StoredRun(file, settings, record["attempts"], record["metrics"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{file} is not a record of a run; delete it to train again.") from error


def compared_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of a configuration that influence its results: "SOLVER.MAX_ITER" -> value."""
    everything = RC2LTrainer.uses_unlabeled(cfg)
    # SOLVER.BASE_LR is compared after scaling with the reference batch.
    settings = plain_settings(cfg) | {"SOLVER.BASE_LR": learning_rate(cfg)}
    return {
        key: value
        for key, value in settings.items()
        if key not in WITHOUT_EFFECT and (everything or key == _EMA_DECAY or not key.startswith(_UNLABELED_ONLY))
    }


def check_settings(stored: StoredRun, settings: Mapping[str, Any]) -> None:
    """Refuse results of another configuration than ``settings``; a key that is newer may have its default.

    Raises:
        InputError: names the first key that differs.
    """
    before = dict(stored.settings)
    if settings.keys() - before.keys():
        before = plain_settings(add_rc2l_config(get_cfg())) | before
    for key, value in settings.items():
        if before.get(key) != value:
            raise InputError(
                f"{stored.source} comes from another configuration ({key} was {before.get(key)}, is now {value}); "
                "delete it to train again, or choose another --output or --records."
            )

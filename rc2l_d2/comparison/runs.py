"""A run before it starts: its configuration, what its folder holds already, and what is left to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import add_rc2l_config
from ..engine import RC2LTrainer, learning_rate, load_config
from ..engine.whole_files import write_text
from ..errors import InputError
from ..host import CfgNode, get_cfg
from ..reporting.run_metrics import RunResult, read_result
from .fingerprint import data_fingerprint
from .matrix import Comparison, Run

DONE, RESUME, NEW = "done", "resume", "new"
# What changes no result. Images and their augmentation do not depend on the workers (data/loader.py); what a reference
# batch does to the learning rate is in the value of SOLVER.BASE_LR here.
_NOT_COMPARED = (
    "OUTPUT_DIR", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_KEEP",
    "DATALOADER.MAX_BAD_SHARE", "SOLVER.REFERENCE_IMS_PER_BATCH", "TEST.REPORT", "VERSION", "VIS_PERIOD",
)  # fmt: skip
# What training on labels alone does not read, by the beginnings of keys, and what it does read of that: the teacher is
# evaluated there too.
_OF_UNLABELED = ("MODEL.RC2L.", "MODEL.PIXEL.", "INPUT.STRONG_", "DATASETS.UNLABELED", "SOLVER.IMS_PER_BATCH_UNLABELED")
_OF_THE_TEACHER = ("MODEL.SEMI_SUPERVISED.EMA_DECAY",)


@dataclass(frozen=True)
class PlannedRun:
    """A run of the matrix with the configuration that it would have now.

    Attributes:
        run: its place in the matrix.
        folder: its OUTPUT_DIR.
        settings: config keys with their values, and :func:`.fingerprint.data_fingerprint` of each stream.
        max_iter, burn_in, eval_period: SOLVER.MAX_ITER, MODEL.SEMI_SUPERVISED.BURN_IN_ITERS and TEST.EVAL_PERIOD.
        problem: a sentence on data that cannot be used, "" where all can.
    """

    run: Run
    folder: Path
    settings: Mapping[str, Any]
    max_iter: int
    burn_in: int
    eval_period: int
    problem: str = ""

    @property
    def record_file(self) -> Path:
        """What the run was made from and with; see :func:`write_record`."""
        return self.folder / "run.json"

    @property
    def metrics_file(self) -> Path:
        """What the run writes while it trains."""
        return self.folder / "metrics.json"

    def arguments(self, resume: bool) -> list[str]:
        """What follows ``train_net.py`` on the command line; a page on each run is left to who asks for it."""
        head = ["--config-file", self.run.config, *(["--resume"] if resume else [])]
        return [*head, *self.run.overrides, "OUTPUT_DIR", str(self.folder), "TEST.REPORT", "False"]

    def result(self) -> RunResult:
        """What the run's metrics.json holds so far."""
        return read_result(self.metrics_file, self.max_iter, self.burn_in)

    def record(self) -> dict[str, Any] | None:
        """What ``run.json`` holds, None without one.

        Raises:
            InputError: it cannot be read.
        """
        try:
            record = json.loads(self.record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.record_file} cannot be read; delete {self.folder} to run it again.") from error
        if not isinstance(record, dict) or record.keys() != {"settings", "attempts"}:
            raise InputError(f"{self.record_file} is none of this tool; delete {self.folder} to run it again.")
        return record

    def state(self) -> str:
        """``DONE``: evaluated after the last iteration; ``RESUME``: there is a checkpoint to go on from; or ``NEW``.

        Raises:
            InputError: the data cannot be used, or another configuration made what is in the folder.
        """
        if self.problem:
            raise InputError(self.problem)
        record = self.record()
        if record is None:
            if self.metrics_file.exists():
                raise InputError(
                    f"{self.folder} holds a run without run.json, so its configuration is not known; delete the folder "
                    "or give another --output."
                )
            return NEW
        changes = differences(record["settings"], self.settings)
        if changes:
            more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
            raise InputError(
                f"{self.folder} was made by another configuration ({changes[0]}{more}); delete the folder to run it "
                "again, or give another --output."
            )
        if self.result().complete:
            return DONE
        return RESUME if (self.folder / "last_checkpoint").exists() else NEW

    def missed_evaluations(self) -> list[int]:
        """Iterations after which a complete run should have been evaluated and was not: it was interrupted there."""
        due = range(self.eval_period, self.max_iter, self.eval_period) if self.eval_period else ()
        return sorted(set(due) - set(self.result().evaluations))


def plan_runs(comparison: Comparison, output: Path) -> list[PlannedRun]:
    """Every run of the matrix, its configuration checked; a problem with its data is noted in the run.

    Raises:
        InputError: a run's configuration cannot be used; names the run.
    """
    fingerprints: dict[str, dict[str, Any]] = {}
    return [_plan(run, output / "runs" / run.folder, fingerprints) for run in comparison.runs()]


def _plan(run: Run, folder: Path, fingerprints: dict[str, dict[str, Any]]) -> PlannedRun:
    try:
        cfg = load_config(run.config, run.overrides)
    except InputError as error:
        raise InputError(f"The run '{run}': {error}") from error
    if len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"The run '{run}': DATASETS.TEST must name one data set, the one that the table is about.")
    settings, problem = _flat(yaml.safe_load(cfg.dump())), ""
    settings["SOLVER.BASE_LR"] = learning_rate(cfg)
    for key in _NOT_COMPARED:
        settings.pop(key, None)
    if not RC2LTrainer.uses_unlabeled(cfg):
        # A change to the method leaves the runs without it as they are.
        settings = {key: value for key, value in settings.items()
                    if not key.startswith(_OF_UNLABELED) or key in _OF_THE_TEACHER}  # fmt: skip
    try:
        settings.update(_data_settings(cfg, fingerprints))
    except InputError as error:
        problem = f"The run '{run}': {error}"
    periods = cfg.SOLVER.MAX_ITER, cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, cfg.TEST.EVAL_PERIOD
    return PlannedRun(run, folder, settings, *periods, problem)


def select_runs(plan: Sequence[PlannedRun], only: Sequence[str]) -> list[PlannedRun]:
    """Those of ``plan`` that one of ``only``, each METHOD or METHOD/DRAW, names; all where it is empty.

    Raises:
        InputError: one of them names no run.
    """
    named = [(planned, (planned.run.method, f"{planned.run.method}/{planned.run.draw}")) for planned in plan]
    for text in only:
        if not any(text in names for _, names in named):
            known = ", ".join(dict.fromkeys(name for _, names in named for name in names))
            raise InputError(f"--only {text} names no run; known are {known}.")
    return [planned for planned, names in named if not only or any(text in names for text in only)]


def write_record(planned: PlannedRun, attempt: Mapping[str, Any], resume: bool) -> None:
    """Note in ``run.json`` the settings and this ``attempt`` to run them, after those that it resumes."""
    attempts = (planned.record() or {}).get("attempts", []) if resume else []
    record = {"settings": planned.settings, "attempts": [*attempts, attempt]}
    write_text(planned.record_file, json.dumps(record, indent=1))


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two configurations differ, a few words a key.

    A key that did not exist when the run was made, and that has its default now, is no difference.
    """
    defaults = _flat(yaml.safe_load(add_rc2l_config(get_cfg()).dump()))
    found = []
    for key in sorted((stored.keys() | now.keys()) - set(_NOT_COMPARED)):
        if key not in stored:
            if key not in defaults or now[key] != defaults[key]:
                found.append(f"{key} is new and {now[key]}")
        elif key not in now:
            found.append(f"{key} does not exist any more")
        elif stored[key] != now[key]:
            found.append(f"{key} was {stored[key]}, is now {now[key]}")
    return found


def _data_settings(cfg: CfgNode, fingerprints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is known of the data of each stream; ``fingerprints`` keeps it for the runs that share it."""
    settings = {}
    for stream in ("TRAIN", "UNLABELED", "TEST") if RC2LTrainer.uses_unlabeled(cfg) else ("TRAIN", "TEST"):
        key = f"{stream} {cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS} {cfg.DATASETS}"
        if key not in fingerprints:
            fingerprints[key] = data_fingerprint(cfg, stream)
        settings.update(_flat({f"data of DATASETS.{stream}": fingerprints[key]}))
    return settings


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat

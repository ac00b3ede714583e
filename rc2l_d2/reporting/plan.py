"""A run before it starts: its configuration, what its folder holds already, and what is left to do."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import add_rc2l_config
from ..data import load_definition
from ..engine import load_config
from ..errors import InputError
from ..host import CfgNode, get_cfg
from .matrix import Comparison, Run
from .results import RunResult, read_result

DONE, RESUME, NEW = "done", "resume", "new"
# Where a run writes and on which device changes no result that a record of the hardware would not explain.
_NOT_COMPARED = ("OUTPUT_DIR", "MODEL.DEVICE")


@dataclass(frozen=True)
class PlannedRun:
    """A run of the matrix with the configuration that it would have now.

    Attributes:
        run: its place in the matrix.
        folder: its OUTPUT_DIR.
        settings: every config key with its value, and each data set's description.
        max_iter, eval_period: SOLVER.MAX_ITER and TEST.EVAL_PERIOD.
    """

    run: Run
    folder: Path
    settings: Mapping[str, Any]
    max_iter: int
    eval_period: int

    @property
    def record_file(self) -> Path:
        """What the run was made from and with; see :func:`write_record`."""
        return self.folder / "run.json"

    def arguments(self, resume: bool) -> list[str]:
        """What follows ``train_net.py`` on the command line."""
        head = ["--config-file", self.run.config, *(["--resume"] if resume else [])]
        return [*head, *self.run.overrides, "OUTPUT_DIR", str(self.folder)]

    def result(self) -> RunResult:
        """What the run's metrics.json holds so far."""
        return read_result(self.folder / "metrics.json", self.max_iter)

    def record(self) -> dict[str, Any] | None:
        """What ``run.json`` holds, None without one.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return json.loads(self.record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.record_file} cannot be read; delete {self.folder} to run it again.") from error

    def state(self) -> str:
        """``DONE``: evaluated after the last iteration; ``RESUME``: there is a checkpoint to go on from; or ``NEW``.

        Raises:
            InputError: what is in the folder was made by another configuration.
        """
        record = self.record()
        if record is None:
            if (self.folder / "metrics.json").exists():
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
    """Every run of the matrix, its configuration checked.

    Raises:
        InputError: a run's configuration cannot be used; names the run.
    """
    return [_plan(run, output / "runs" / run.folder) for run in comparison.runs()]


def _plan(run: Run, folder: Path) -> PlannedRun:
    try:
        cfg = load_config(run.config, run.overrides)
    except InputError as error:
        raise InputError(f"The run '{run}': {error}") from error
    if len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"The run '{run}': DATASETS.TEST must name one data set, the one that the table is about.")
    return PlannedRun(run, folder, _settings(cfg), cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD)


def write_record(planned: PlannedRun, attempt: Mapping[str, Any]) -> None:
    """Note in ``run.json`` the settings and, after those of earlier starts, this ``attempt`` to run them."""
    attempts = (planned.record() or {}).get("attempts", [])
    record = {"settings": planned.settings, "attempts": [*attempts, attempt]}
    temporary = planned.record_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(temporary, planned.record_file)


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two configurations differ, a few words a key.

    A key that did not exist when the run was made, and that has its default now, is no difference.
    """
    defaults = _flat(yaml.safe_load(add_rc2l_config(get_cfg()).dump()))
    found = []
    for key in sorted(stored.keys() | now.keys()):
        if key not in stored:
            if key not in defaults or now[key] != defaults[key]:
                found.append(f"{key} is new and {now[key]}")
        elif key not in now:
            found.append(f"{key} does not exist any more")
        elif stored[key] != now[key]:
            found.append(f"{key} was {stored[key]}, is now {now[key]}")
    return found


def _settings(cfg: CfgNode) -> dict[str, Any]:
    settings = _flat(yaml.safe_load(cfg.dump()))
    for key in _NOT_COMPARED:
        settings.pop(key, None)
    # Names of data sets say little: a changed draw under the same name is another experiment.
    for definition in map(load_definition, cfg.DATASETS.DEFINITIONS):
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.UNLABELED, *cfg.DATASETS.TEST):
            part = name.removeprefix(f"{definition.name}_")
            if part != name and part in definition.parts:
                settings[f"data set {name}"] = {
                    "parts": _sources(definition, part),
                    "folders": [definition.images, *map(repr, definition.labels)],
                    "classes": list(definition.classes),
                    "ignore_value": definition.ignore_value,
                }
    return settings


def _sources(definition, part: str) -> list[str]:
    """What a part is made from, down to lists and folders."""
    source = definition.parts[part]
    parents = [getattr(source, name) for name in ("of", "without") if hasattr(source, name)]
    return [repr(source), *(text for parent in parents for text in _sources(definition, parent))]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat

"""The folder of a run read back: configuration, numbers, starts and teacher; and the command that resumes it."""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command_words import command_words
from ..engine import EMATeacher, RC2LTrainer, RegionCheckpointer, load_config
from ..engine.setup import build_model_or_explain
from ..engine.step_log import LOG_PERIOD
from ..errors import InputError
from ..host import META_ARCH_REGISTRY, CfgNode
from .provenance import read_starts

STUDENT, TEACHER = "sem_seg", "sem_seg_teacher"


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not: OUTPUT_DIR as given, configuration, :func:`collect_scalars` and :func:`read_starts`."""

    folder: Path
    cfg: CfgNode
    scalars: Mapping[str, Mapping[int, float]]
    starts: Sequence[Mapping[str, Any]]

    @property
    def max_iter(self) -> int:
        """Iterations of the whole run."""
        return self.cfg.SOLVER.MAX_ITER

    @property
    def iterations(self) -> int:
        """The last logged iteration."""
        return max(next(reversed(values)) for values in self.scalars.values())

    @property
    def uses_unlabeled(self) -> bool:
        """Whether the run learns from unlabelled images."""
        return RC2LTrainer.uses_unlabeled(self.cfg)

    @property
    def burn_in(self) -> int:
        """Iterations before unlabelled images are used; 0 if the run has not got further."""
        burn_in = self.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
        return burn_in if self.uses_unlabeled and burn_in < self.iterations else 0

    def scores(self, task: str, dataset: str) -> dict[str, Mapping[int, float]]:
        """Return metric -> iterations -> value of STUDENT or TEACHER on a test set; empty if it was not evaluated."""
        if dataset not in self.cfg.DATASETS.TEST:
            return {}
        # With several test sets, the name of each is a prefix.
        prefix = f"{dataset}/{task}/" if len(set(self.cfg.DATASETS.TEST)) > 1 else f"{task}/"
        return {name.removeprefix(prefix): x for name, x in self.scalars.items() if name.startswith(prefix)}

    def load_teacher(self) -> EMATeacher:
        """Load the teacher of the last checkpoint.

        Raises:
            InputError: there is no checkpoint, or it cannot be used.
        """
        model = build_model_or_explain(self.cfg)
        teacher = EMATeacher.from_config(self.cfg, model)
        checkpointer = RegionCheckpointer(model, str(self.folder), ema=teacher)
        if not (path := checkpointer.get_checkpoint_file()):
            raise InputError(
                f"{self.folder} holds no checkpoint; keep model_*.pth and last_checkpoint for example images."
            )
        checkpointer.load(path, ["ema"])
        return teacher

    def train_command(self) -> list[str]:
        """Return the words of a command that trains with the run's configuration and as many ranks."""
        ranks = self.starts[-1].get("processes", 1) if self.starts else 1
        words = [*command_words("train"), "--config-file", str(self.folder / "config.yaml")]
        return [*words, "--num-gpus", str(ranks)] if ranks > 1 else words

    def labels_alone_commands(self) -> list[str]:
        """Return the commands that train the same model on labels alone and compare; [] if this run is such a one."""
        if not self.uses_unlabeled:
            return []
        architecture = META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE)
        supervised = next(parent.__name__ for parent in architecture.__mro__ if not parent.uses_unlabeled)
        alone = f"{self.folder}_labels_alone"
        return [
            shlex.join([*self.train_command(), "MODEL.META_ARCHITECTURE", supervised, "OUTPUT_DIR", alone]),
            shlex.join([*command_words("report"), str(self.folder), "--baseline", alone]),
        ]

    def resume_command(self) -> str:
        """Return the command that continues the run, or trains a finished one as long again; "" without a checkpoint.

        It is valid in the folder where the run was started.
        """
        if not (self.folder / "last_checkpoint").exists():
            return ""
        words = [*self.train_command(), "--resume"]
        if self.iterations >= self.max_iter:
            words += ["SOLVER.MAX_ITER", str(2 * self.max_iter)]
        if os.path.realpath(self.folder) != os.path.realpath(self.cfg.OUTPUT_DIR):  # The folder was moved.
            words += ["OUTPUT_DIR", str(self.folder)]
        return shlex.join(words)


def read_run(folder: Path) -> RunFolder:
    """Read the folder of a run, finished or not.

    Raises:
        InputError: it is not a run's folder, nothing has been logged yet, or the configuration cannot be used here.
    """
    for name in ("config.yaml", "metrics.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; give the OUTPUT_DIR of a run that has trained.")
    cfg = load_config(str(folder / "config.yaml"))
    scalars = collect_scalars(read_entries(folder / "metrics.json"), cfg.SOLVER.MAX_ITER)
    if not scalars:
        raise InputError(f"{folder / 'metrics.json'} holds no numbers yet; wait until the run has logged some.")
    return RunFolder(folder, cfg, scalars, read_starts(folder))


def read_entries(metrics_file: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics.json, except one that a killed run left unfinished; none without the file."""
    entries = []
    for line in metrics_file.read_text(encoding="utf-8").splitlines() if metrics_file.is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [entry for entry in entries if isinstance(entry, dict) and "iteration" in entry]


def collect_scalars(entries: Iterable[Mapping[str, float]], max_iter: int) -> dict[str, dict[int, float]]:
    """Return all scalars of a run: name -> finished iterations -> value.

    One that comes again for an earlier iteration means that the run was resumed, or that another one started in the
    same folder; the values of later iterations are then dropped. ``max_iter``: iterations of the whole run.
    """
    scalars: dict[str, dict[int, float]] = {}
    for entry in entries:
        # During training "iteration" is the one just finished; after training it is the next one.
        done = min(int(entry["iteration"]) + 1, max_iter)
        values = {name: value for name, value in entry.items() if name != "iteration"}
        # Compare the numbers, not the lines: one write may put a later iteration's line before an earlier one's.
        if any(done <= next(reversed(scalars[name])) for name in values if name in scalars):
            kept = {name: {i: x for i, x in known.items() if i <= done} for name, known in scalars.items()}
            scalars = {name: known for name, known in kept.items() if known}
        for name, value in values.items():
            scalars.setdefault(name, {})[done] = value
    return scalars


def step_seconds(scalars: Mapping[str, Mapping[int, float]], burn_in: int) -> float | None:
    """Return the median seconds of a training step after burn-in, without hooks; None before anything was logged."""
    # Each logged time is the median of the last LOG_PERIOD iterations, all of which must come after burn-in.
    times = [value for done, value in scalars.get("time", {}).items() if done - LOG_PERIOD >= burn_in]
    return statistics.median(times) if times else None

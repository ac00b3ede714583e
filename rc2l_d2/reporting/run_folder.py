"""The folder of a run read back: configuration, numbers, starts and teacher; and the command that resumes it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command_words import command_words
from ..engine import EMATeacher, RC2LTrainer, RegionCheckpointer, load_config
from ..engine.setup import build_model_or_explain
from ..errors import InputError
from ..host import CfgNode
from .provenance import read_starts
from .run_metrics import read_scalars


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not.

    Attributes:
        folder: its OUTPUT_DIR, as given.
        cfg: its configuration.
        scalars: its numbers, see :func:`.run_metrics.collect_scalars`.
        starts: see :func:`.provenance.read_starts`.
    """

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
        """Iterations on labels alone before the unlabelled images are used; 0 if the run has not got further."""
        burn_in = self.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
        return burn_in if self.uses_unlabeled and burn_in < self.iterations else 0

    def scores(self, task: str, dataset: str) -> dict[str, Mapping[int, float]]:
        """Return metric -> iterations -> value of STUDENT or TEACHER on a test set; empty before an evaluation."""
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
            raise InputError(f"{self.folder} holds no checkpoint.")
        checkpointer.load(path, ["ema"])
        return teacher

    def resume_command(self) -> str:
        """Return the command that continues the run, valid in the folder where it was started; "" without a checkpoint.

        The command trains a finished run for as many iterations again.
        """
        if not (self.folder / "last_checkpoint").exists():
            return ""
        words = [*command_words("train"), "--config-file", str(self.folder / "config.yaml")]
        ranks = self.starts[-1].get("processes", 1) if self.starts else 1
        words += ["--num-gpus", str(ranks)] if ranks > 1 else []
        words.append("--resume")
        words += ["SOLVER.MAX_ITER", str(2 * self.max_iter)] if self.iterations >= self.max_iter else []
        # The folder may have been moved.
        moved = os.path.realpath(self.folder) != os.path.realpath(self.cfg.OUTPUT_DIR)
        return shlex.join([*words, *(["OUTPUT_DIR", str(self.folder)] if moved else [])])


def read_run(folder: Path) -> RunFolder:
    """Read the folder of a run, finished or not.

    Raises:
        InputError: it is not a run's folder, nothing has been logged yet, or the configuration cannot be used here.
    """
    for name in ("config.yaml", "metrics.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; give the OUTPUT_DIR of a run that has trained.")
    cfg = load_config(str(folder / "config.yaml"))
    scalars = read_scalars(folder / "metrics.json", cfg.SOLVER.MAX_ITER)
    if not scalars:
        raise InputError(f"{folder / 'metrics.json'} holds no numbers yet; wait until the run has logged some.")
    return RunFolder(folder, cfg, scalars, read_starts(folder))

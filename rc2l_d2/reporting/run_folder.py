"""The folder of one run, read back: configuration, numbers, starts, the teacher; and how to go on from it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command_words import command_words
from ..data import load_dataset
from ..engine import EMATeacher, RC2LTrainer, RegionCheckpointer, load_config, load_model_file
from ..engine.setup import build_model_or_explain
from ..errors import InputError
from ..host import CfgNode
from .provenance import read_starts
from .run_metrics import STUDENT, TEACHER, read_scalars


@dataclass(frozen=True)
class Evaluation:
    """What is known of a run's results on one test set.

    Attributes:
        dataset: its name.
        curves: STUDENT and TEACHER -> iterations -> mIoU in percent; empty before the first evaluation.
        metrics: STUDENT and TEACHER -> metric -> value in the last evaluation.
        iterations: after which that was.
    """

    dataset: str
    curves: Mapping[str, Mapping[int, float]]
    metrics: Mapping[str, Mapping[str, float]]
    iterations: int


@dataclass(frozen=True)
class RunFolder:
    """What a run left so far.

    Attributes:
        folder: its OUTPUT_DIR, as given.
        cfg: its configuration.
        scalars: its numbers, see :func:`.results.read_scalars`.
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
        """Iterations that were logged."""
        return max(next(reversed(values)) for values in self.scalars.values())

    @property
    def uses_unlabeled(self) -> bool:
        """Whether it learns from unlabelled images."""
        return RC2LTrainer.uses_unlabeled(self.cfg)

    def evaluations(self) -> list[Evaluation]:
        """One for each test set."""
        names = list(dict.fromkeys(self.cfg.DATASETS.TEST))
        # Of several the log has each under its name.
        return [self._evaluation(name, f"{name}/" if len(names) > 1 else "") for name in names]

    def _evaluation(self, dataset: str, prefix: str) -> Evaluation:
        curves = {task: self.scalars.get(f"{prefix}{task}/mIoU", {}) for task in (STUDENT, TEACHER)}
        last = next(reversed(curves[STUDENT]), 0)
        metrics = {
            task: {
                name.removeprefix(f"{prefix}{task}/"): values[last]
                for name, values in self.scalars.items()
                if name.startswith(f"{prefix}{task}/") and last in values
            }
            for task in (STUDENT, TEACHER)
        }
        return Evaluation(dataset, curves, metrics, last)

    def load_teacher(self) -> tuple[EMATeacher, bool]:
        """The teacher of the last checkpoint, or that of ``teacher_final.pth`` where there is none; and whether its
        confidence in each class is known, which the second file does not have.

        Raises:
            InputError: there is neither, or the one there is cannot be used.
        """
        classes, decay = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, self.cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY
        if not self.has_checkpoint() and self._model_file.exists():
            model, _, _ = load_model_file(str(self._model_file))
            return EMATeacher(model, classes, decay), False
        model = build_model_or_explain(self.cfg)
        teacher = EMATeacher(model, classes, decay)
        checkpointer = RegionCheckpointer(model, str(self.folder), ema=teacher)
        if not (path := checkpointer.get_checkpoint_file()):
            raise InputError(f"{self.folder} holds no checkpoint and no teacher_final.pth; there is nothing to ask.")
        checkpointer.load(path, ["ema"])
        return teacher, True

    @property
    def _model_file(self) -> Path:
        return self.folder / "teacher_final.pth"

    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return (self.folder / "last_checkpoint").exists()

    def commands(self, baseline: RunFolder | None) -> list[tuple[str, str]]:
        """(what for, command line), to be given in the folder from which the run was started.

        Args:
            baseline: the run that the page has beside this one.
        """
        config, last = str(self.folder / "config.yaml"), self.folder / "last_checkpoint"
        processes = self.starts[-1].get("processes", 1) if self.starts else 1
        train = [*command_words("train"), "--config-file", config]
        train += ["--num-gpus", str(processes)] if processes > 1 else []
        # A folder that was moved, or is seen from elsewhere, is not where the configuration says.
        moved = os.path.realpath(self.folder) != os.path.realpath(self.cfg.OUTPUT_DIR)
        there = ["OUTPUT_DIR", str(self.folder)] if moved else []
        beside = ["--baseline", str(baseline.folder)] if baseline else []
        found = [("Make this page again", [*command_words("report"), str(self.folder), *beside])]
        if last.exists():
            on = ("Go on training", ["--resume"])
            if self.iterations >= self.max_iter:
                on = ("Train on, for as long again", ["--resume", "SOLVER.MAX_ITER", str(2 * self.max_iter)])
            evaluate = [*train, "--eval-only", "--resume", *there]
            found = [(on[0], [*train, *on[1], *there]), ("Evaluate", evaluate), *found]
        predict = [*command_words("predict"), "--input", self._a_picture(), "--output", str(self.folder / "pictures")]
        if self._model_file.exists():
            found.insert(-1, ("Predict", [*predict, "--weights", str(self._model_file)]))
        elif last.exists():
            weights = str(self.folder / last.read_text(encoding="utf-8").strip())
            found.insert(-1, ("Predict", [*predict, "--config-file", config, "--opts", "MODEL.WEIGHTS", weights]))
        return [(purpose, shlex.join(words)) for purpose, words in found]

    def _a_picture(self) -> str:
        try:
            return load_dataset(self.cfg.DATASETS.TEST[0], labels="none")[0]["file_name"]
        except (InputError, IndexError):
            return "PICTURES"


def read_run(folder: Path) -> RunFolder:
    """Read the folder of a run, finished or not.

    Raises:
        InputError: it is none, the run has logged nothing yet, or its configuration cannot be used here.
    """
    for name in ("config.yaml", "metrics.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; give the OUTPUT_DIR of a run that has trained.")
    cfg = load_config(str(folder / "config.yaml"))
    scalars = read_scalars(folder / "metrics.json", cfg.SOLVER.MAX_ITER)
    if not scalars:
        raise InputError(f"{folder / 'metrics.json'} holds no number yet; wait until the run has logged some.")
    return RunFolder(folder, cfg, scalars, read_starts(folder))

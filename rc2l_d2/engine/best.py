"""Best evaluation results of a run, beside the last ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..host import HookBase
from .checkpoint import RegionCheckpointer

logger = logging.getLogger(__name__)


class BestResults:
    """Best mIoU so far and its iteration, for each data set and task (student, teacher).

    The best of many evaluations is selected on its test data, so it is not called ``mIoU``. Saved in checkpoints.

    Attributes:
        evaluated: the iteration of the last evaluation, -1 before the first.
        unsaved: the results of the last evaluation have not been offered to the checkpoint of its iteration yet.
    """

    def __init__(self):
        self._best: dict[str, tuple[float, int]] = {}
        self.evaluated = -1
        self.unsaved = False

    def update(self, results: Mapping[str, Mapping[str, dict[str, float]]], iteration: int) -> None:
        """Add the best so far to the ``results`` of an evaluation after ``iteration``.

        Args:
            results: {data set: {task: metrics}}; the metrics get ``mIoU_best`` (percent) and ``mIoU_best_iteration``,
                the first evaluation that reached it. Without any finite mIoU yet they get neither.
            iteration: counted as in metrics.json.
        """
        self.evaluated, self.unsaved = iteration, any(results.values())
        for dataset_name, tasks in results.items():
            for task, metrics in tasks.items():
                key, last = f"{dataset_name}/{task}", metrics["mIoU"]
                if last > self._best.get(key, (float("-inf"), 0))[0]:
                    self._best[key] = last, iteration
                if key not in self._best:
                    continue
                best, best_iteration = self._best[key]
                metrics |= {"mIoU_best": best, "mIoU_best_iteration": best_iteration}
                logger.info("%s: last mIoU %.2f, best mIoU %.2f (iteration %d)", key, last, best, best_iteration)

    def state_dict(self) -> dict:
        return {"best": dict(self._best), "evaluated": self.evaluated}

    def load_state_dict(self, state: dict) -> None:
        self._best, self.evaluated = dict(state["best"]), state["evaluated"]


class BestResultsHook(HookBase):
    """Writes the results of each evaluation into the checkpoint of its iteration. Rank 0 alone needs it.

    That checkpoint was written first, so that a failing evaluation loses no training. Register this hook after the
    writers: a run that is killed between the two evaluates again when it resumes, instead of losing the results.
    """

    def __init__(self, best: BestResults, checkpointer: RegionCheckpointer):
        self._best, self._checkpointer = best, checkpointer

    def _save(self) -> None:
        if self._best.unsaved:
            iteration = self._best.evaluated
            name = "model_final" if iteration >= self.trainer.max_iter else f"model_{iteration:07d}"
            self._checkpointer.refresh(name, "best")
            self._best.unsaved = False

    # Before training: the results of an evaluation after which the last run was interrupted.
    before_train = after_step = after_train = _save

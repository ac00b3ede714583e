"""The best result of a run, kept apart from the last."""

from __future__ import annotations

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class BestResults:
    """The best mIoU so far of each data set and task (student, teacher), and when it was.

    ``mIoU`` is always the last evaluation's. Picking the best of many evaluations on the data that is reported on is
    choosing on the test data; whoever does it can say so, since the two have different names.

    A checkpoint keeps it, so that a resumed run goes on with it.

    Attributes:
        evaluated: the iteration of the last evaluation, -1 before the first.
    """

    def __init__(self):
        self._best: dict[str, tuple[float, int]] = {}
        self.evaluated = -1

    def update(self, results: Mapping[str, Mapping[str, dict[str, float]]], iteration: int) -> None:
        """Take an evaluation into account, and add the best so far to it.

        Args:
            results: {data set: {task: metrics}}; the metrics get ``mIoU_best``, in percent, and
                ``mIoU_best_iteration``, the first evaluation that reached it, counted as in metrics.json and in the
                names of checkpoints. A task whose mIoU was never a number gets neither.
            iteration: of this evaluation.
        """
        self.evaluated = iteration
        for dataset_name, tasks in results.items():
            for task, metrics in tasks.items():
                key, last = f"{dataset_name}/{task}", metrics["mIoU"]
                if last > self._best.get(key, (float("-inf"), 0))[0]:
                    self._best[key] = last, iteration
                if key not in self._best:
                    continue
                best, best_iteration = self._best[key]
                metrics |= {"mIoU_best": best, "mIoU_best_iteration": best_iteration}
                logger.info(
                    "%s: mIoU %.2f is the last (iteration %d), %.2f the best (iteration %d)",
                    key, last, iteration, best, best_iteration,
                )  # fmt: skip

    def state_dict(self) -> dict:
        """The best mIoU and its iteration by data set and task, and the last evaluation's, for a checkpoint."""
        return {"best": dict(self._best), "evaluated": self.evaluated}

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._best, self.evaluated = dict(state["best"]), state["evaluated"]

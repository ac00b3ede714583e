"""The hooks of an ordinary training run."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer

from . import comm
from .evaluation import flatten_results_dict
from .events import EventWriter
from .train_loop import HookBase


class IterationTimer(HookBase):
    """Stores the seconds of each step but the first few as ``time``, and logs the total. Put it before other hooks."""

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter

    def before_train(self) -> None:
        self._total = Timer()

    def before_step(self) -> None:
        self._step = Timer()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self.trainer.storage.put_scalar("time", self._step.seconds())

    def after_train(self) -> None:
        total = datetime.timedelta(seconds=int(self._total.seconds()))
        logging.getLogger(__name__).info("Total training time: %s", total)


class LRScheduler(HookBase):
    """Stores the learning rate, that of the group with most parameters, as ``lr``, and moves the trainer's scheduler
    on after every step; keeps its state."""

    def after_step(self) -> None:
        largest = max(self.trainer.optimizer.param_groups, key=lambda group: len(group["params"]))
        self.trainer.storage.put_scalar("lr", largest["lr"], smoothing_hint=False)
        self.trainer.scheduler.step()

    def state_dict(self) -> dict:
        return self.trainer.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        self.trainer.scheduler.load_state_dict(state_dict)


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every ``period`` iterations and after the last one."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class PeriodicWriter(HookBase):
    """Runs writers every ``period`` iterations, after the last one and, with what came in since, in the end."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter % self._period == 0 or next_iter == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()


class EvalHook(HookBase):
    """Runs ``eval_function()`` every ``eval_period`` iterations (0: never) and after the last (not after a failure).

    Its results, a nested dict of numbers or None, are stored flattened: ``{"sem_seg": {"mIoU": x}}`` as
    ``sem_seg/mIoU``. Every process must have this hook, or none: it ends with a barrier.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping | None]):
        self._period = eval_period
        self._func = eval_function

    def _do_eval(self) -> None:
        flat = flatten_results_dict(self._func() or {})
        self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # often a closure over the trainer

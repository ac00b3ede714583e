"""The hooks of a training run."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer

from . import comm
from .train_loop import HookBase


class IterationTimer(HookBase):
    """Log the seconds of each step but the first two as ``time``, and the total. Register it before other hooks."""

    def before_train(self) -> None:
        self._total = Timer()

    def before_step(self) -> None:
        self._step = Timer()

    def after_step(self) -> None:
        if self.trainer.iter >= self.trainer.start_iter + 2:
            self.trainer.storage.put_scalar("time", self._step.seconds())

    def after_train(self) -> None:
        total = datetime.timedelta(seconds=int(self._total.seconds()))
        logging.getLogger(__name__).info("Total training time: %s", total)


class LRScheduler(HookBase):
    """Log the learning rate of the largest parameter group as ``lr``, then step the trainer's scheduler."""

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
    """Run writers every ``period`` iterations, after the last iteration and after training."""

    def __init__(self, writers: Sequence, period: int = 20):
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
    """Run ``eval_function()`` every ``eval_period`` iterations (0: never) and after the last, unless training failed.

    Its results, a nested dict of numbers or None, are logged flattened: ``{"sem_seg": {"mIoU": x}}`` as
    ``sem_seg/mIoU``. The hook ends with a barrier: register it on every rank.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping | None]):
        self._period = eval_period
        self._func = eval_function

    def _do_eval(self) -> None:
        self.trainer.storage.put_scalars(**_flat(self._func() or {}), smoothing_hint=False)
        comm.synchronize()

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()


def _flat(results: Mapping, prefix: str = "") -> dict[str, float]:
    flat = {}
    for name, value in results.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat

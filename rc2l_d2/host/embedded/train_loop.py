"""The training loop with its hooks, and the step of the plain case: one model, one loader, one optimizer."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import nn

from . import comm
from .events import EventStorage, get_event_storage

logger = logging.getLogger(__name__)


class HookBase:
    """What happens around the steps of training; a subclass fills in what it needs.

    ``before_train``, then for each iteration ``before_step``, the step, ``after_step``, and in the end
    ``after_train``, also when training fails. ``self.trainer`` is a weak reference to the trainer, set when the
    hook is registered. A hook that takes time should take it in ``after_step``.
    """

    trainer: TrainerBase

    def before_train(self) -> None: ...
    def after_train(self) -> None: ...
    def before_step(self) -> None: ...
    def after_step(self) -> None: ...

    def state_dict(self) -> dict:
        """What a checkpoint must keep; a hook that returns something defines ``load_state_dict`` too."""
        return {}


class TrainerBase:
    """A loop of ``run_step``, which a subclass defines, with hooks around it.

    Attributes:
        iter: the current iteration; ``max_iter`` after a training that came to its end.
        start_iter, max_iter: first iteration, and the one before which training stops.
        storage: the :class:`EventStorage` of the current training.
    """

    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, called in this order after those already there; None is left out."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # weak, or hook and trainer would keep each other alive
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._call_hooks("before_train")
                for self.iter in range(start_iter, max_iter):
                    self._call_hooks("before_step")
                    self.run_step()
                    self._call_hooks("after_step")
                self.iter += 1  # tells after_train that nothing failed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self._call_hooks("after_train")

    def _call_hooks(self, name: str) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            getattr(hook, name)()

    def state_dict(self) -> dict:
        """``iteration``, the last one done, and the state of ``hooks`` by class name (the first of each class)."""
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, "hooks": hooks}

    def load_state_dict(self, state_dict: dict) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logger.warning("Cannot find the hook '%s', its state is ignored.", name)
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """The step of the plain case: losses of the next batch, their gradient, one update.

    Args:
        model: takes a batch, returns a dict of scalar losses. Put in training mode.
        data_loader: an iterable of batches.
        optimizer: a torch optimizer.
    """

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.model = model.train()
        self.data_loader = data_loader
        self.optimizer = optimizer

    @cached_property
    def _data_loader_iter(self):
        """The iterator over the loader, made when first needed: workers start then."""
        return iter(self.data_loader)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        losses = self.model(data)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        """Store the mean of each scalar loss over the processes (the same keys on each), their sum, and the longest
        ``data_time``, the seconds that a process waited for its batch.

        Raises:
            FloatingPointError: the sum is not finite, on every process, so that none is left waiting.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        mine = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.all_gather((mine, data_time))
        metrics = {name: float(np.mean([losses[name] for losses, _ in gathered])) for name in mine}
        total = sum(metrics.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={self.iter}!\nloss_dict = {metrics}")
        if comm.is_main_process():
            slowest = max(seconds for _, seconds in gathered)
            storage.put_scalars(cur_iter=self.iter, data_time=slowest, total_loss=total, **metrics)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

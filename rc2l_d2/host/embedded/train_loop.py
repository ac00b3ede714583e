"""The training loop and its hooks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import nn

from .events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Base class of hooks; a subclass overrides some of its methods.

    Training calls ``before_train``, then ``before_step`` and ``after_step`` around each step, and finally
    ``after_train``, also after a failure. ``self.trainer`` is a weak reference to the trainer.
    """

    trainer: TrainerBase

    def before_train(self) -> None: ...
    def after_train(self) -> None: ...
    def before_step(self) -> None: ...
    def after_step(self) -> None: ...

    def state_dict(self) -> dict:
        """Return the hook's state for checkpoints; if it is not empty, ``load_state_dict`` is needed too."""
        return {}


class TrainerBase:
    """A loop of ``run_step``, which a subclass defines, with hooks around it.

    Its iteration ``iter`` runs from ``start_iter`` to ``max_iter`` (exclusive), and equals that after the training.
    """

    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks, which are called in this order; None is skipped."""
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
                self.iter += 1  # after_train recognises a finished training by this
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
        """Return ``iteration``, the last one done, and the state of ``hooks`` by class name (first of each class)."""
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            if state := hook.state_dict():
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
    """A trainer with one model, one loader and one optimizer; a subclass defines ``run_step``."""

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.model = model.train()
        self.data_loader = data_loader
        self.optimizer = optimizer

    @cached_property
    def _data_loader_iter(self):
        """Iterator over the loader; the first use starts the workers."""
        return iter(self.data_loader)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

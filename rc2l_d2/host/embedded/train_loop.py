"""The training loop with its hooks, and the step of the plain case: one model, one loader, one optimizer."""

from __future__ import annotations

import concurrent.futures
import logging
import time
import weakref
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from . import comm
from .events import EventStorage, get_event_storage


class HookBase:
    """What happens around the steps of training; a subclass fills in what it needs.

    ``before_train``, then for each iteration ``before_step``, the step, ``after_step``, and in the end
    ``after_train``, also when training fails. ``self.trainer`` is a weak reference to the trainer, set when the
    hook is registered. A hook that takes time should take it in ``after_step``. ``after_backward`` is called by
    :class:`SimpleTrainer` for the hooks registered with itself.
    """

    trainer: TrainerBase

    def before_train(self) -> None: ...
    def after_train(self) -> None: ...
    def before_step(self) -> None: ...
    def after_backward(self) -> None: ...
    def after_step(self) -> None: ...

    def state_dict(self) -> dict:
        """What a checkpoint must keep; a hook that returns something defines ``load_state_dict`` too."""
        return {}


class TrainerBase:
    """A loop of ``run_step`` with hooks around it.

    Attributes:
        iter: the current iteration; ``max_iter`` after a training that came to its end.
        start_iter, max_iter: first iteration, and the one before which training stops.
        storage: the :class:`EventStorage` of the current training.
    """

    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, called in this order after those already there; None is left out."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase."
            hook.trainer = weakref.proxy(self)  # weak, or hook and trainer would keep each other alive
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # tells after_train that nothing failed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def _call_hooks(self, name: str) -> None:
        for hook in self._hooks:
            getattr(hook, name)()

    def before_train(self) -> None:
        self._call_hooks("before_train")

    def after_train(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        self._call_hooks("after_step")

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict:
        """``iteration``, the last one done, and the state of ``hooks`` by class name (the first of each class)."""
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: dict) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning("Cannot find the hook '%s', its state is ignored.", name)
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """The step of the plain case: losses of the next batch, their gradient, one update.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar loss. Put in training mode.
        data_loader: an iterable of batches.
        optimizer: a torch optimizer.
        gather_metric_period: losses are gathered over the processes and stored every so many iterations.
        zero_grad_before_forward: clear gradients before the forward pass instead of after it.
        async_write_metrics: store losses from a thread, so that the step does not wait for the device. A failure
            then shows one step later. With several processes it is done in the step all the same: collectives of
            two threads could meet in different orders.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._pending_write: concurrent.futures.Future | None = None
        self._data_loader_iter_obj = None

    @property
    def _data_loader_iter(self):
        """The iterator over the loader, made when first needed: workers start then."""
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self) -> None:
        assert self.model.training, "[SimpleTrainer] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self.model(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.after_backward()

        if self.async_write_metrics and comm.get_world_size() == 1:
            if self._pending_write is not None:
                self._pending_write.result()
            self._pending_write = self._executor.submit(self._write_metrics, losses, data_time, iter=self.iter)
        else:
            self._write_metrics(losses, data_time)
        self.optimizer.step()

    def after_train(self) -> None:
        try:
            if self._pending_write is not None:
                self._pending_write.result()
        finally:
            super().after_train()

    def _write_metrics(
        self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        iter = self.iter if iter is None else iter
        if (iter + 1) % self.gather_metric_period == 0:
            SimpleTrainer.write_metrics(loss_dict, data_time, iter, prefix)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Store the mean of each loss over the processes, their sum and the longest data time.

        Args:
            loss_dict: scalar losses, the same keys on every process.
            data_time: seconds that this process waited for its batch.
            cur_iter: iteration they belong to.
            prefix: put before ``total_loss``.

        Raises:
            FloatingPointError: the sum is not finite, on every process, so that none is left waiting.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        mine = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.all_gather((mine, data_time))
        metrics = {name: float(np.mean([losses[name] for losses, _ in gathered])) for name in mine}
        total = sum(metrics.values())
        if comm.is_main_process():
            storage.put_scalar("data_time", max(seconds for _, seconds in gathered), cur_iter=cur_iter)
        if not np.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {metrics}")
        if comm.is_main_process():
            storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
            if len(metrics) > 1:
                storage.put_scalars(cur_iter=cur_iter, **metrics)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

"""SIGTERM and SIGINT: training finishes its step, writes a checkpoint and exits with 143 or 130."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing import active_children
from types import FrameType
from typing import Any

from ..host import HookBase, comm
from .checkpoint import RegionCheckpointer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals within this many seconds count as one: schedulers signal a process and its parent, which forwards it.
_SAME = 1.0


class Interrupted(Exception):
    """Training ended by a signal, its state saved; ``status`` is the exit status, 143 (SIGTERM) or 130 (SIGINT)."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopOnSignal(HookBase):
    """Ends training after the step in which any rank got a signal; a second signal ends the process at once.

    Register it after the hooks whose state a checkpoint holds, and before the evaluation, which may take longer than a
    scheduler waits.
    """

    def __init__(self, checkpointer: RegionCheckpointer, check: Callable[[], None]):
        """``check`` is called on all ranks before ``checkpointer`` writes; it raises if training has failed."""
        self.checkpointer = checkpointer
        self.check = check
        self._signal = 0
        self._since = 0.0
        self._handling = ExitStack()

    def before_train(self) -> None:
        self._handling.enter_context(_handle_signals(self._receive))

    def after_train(self) -> None:
        self._handling.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal and now - self._since > _SAME:
            os._exit(128 + number)
        if not self._signal:
            self._signal, self._since = number, now

    def after_step(self) -> None:
        # Gathered in each step, because all ranks must stop after the same one; this uses host memory only.
        number = max(comm.all_gather(self._signal))
        iteration = self.trainer.iter
        if not number or iteration + 1 >= self.trainer.max_iter:  # The last step is saved anyway.
            return
        self.check()
        name = f"model_{iteration:07d}"
        # Rank 0 decides: others may not see its files.
        if not comm.all_gather(self.checkpointer.is_last(name))[0]:
            self.checkpointer.save(name, iteration=iteration)
        # No rank may leave before the checkpoint is complete: the launcher would end the others.
        comm.synchronize()
        raise Interrupted(
            f"{signal.Signals(number).name} after iteration {iteration}; {name}.pth is saved, continue with --resume.",
            128 + number,
        )


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous: dict[signal.Signals, Any] = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


def signals_to_children() -> AbstractContextManager[None]:
    """Return a context that forwards SIGTERM and SIGINT to child processes while this process waits for them."""

    def forward(number: int, frame: FrameType | None) -> None:
        for child in active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    return _handle_signals(forward)

"""SIGTERM and SIGINT: a run that is told to end finishes its step, writes a checkpoint and says how to go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType

from ..host import HookBase, comm
from .checkpoint import RegionCheckpointer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which a signal is still the first: schedulers send it to a process and to its parent, which hands it on.
_SAME = 1.0


class Interrupted(Exception):
    """Training was told to end, and its state is in a checkpoint.

    Attributes:
        status: the exit status to leave with: 128 and the signal's number, 143 for SIGTERM and 130 for SIGINT.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopOnSignal(HookBase):
    """Ends training after the step in which a process was told to; a second signal ends that process at once.

    Stands behind the hooks whose state a checkpoint holds, and before the evaluation, which may take longer than a
    scheduler waits: the resumed run makes up for it.
    """

    def __init__(self, checkpointer: RegionCheckpointer, check: Callable[[], None]):
        """
        Args:
            checkpointer: writes the checkpoint.
            check: called before that, on all processes; raises where the training has failed.
        """
        self.checkpointer = checkpointer
        self.check = check
        self._signal = 0
        self._since = 0.0

    def before_train(self) -> None:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal and now - self._since > _SAME:
            os._exit(128 + number)
        if not self._signal:
            self._signal, self._since = number, now

    def after_step(self) -> None:
        # Each step, as all processes have to leave after the same one; host memory only, no device waits.
        number = max(comm.all_gather(self._signal))
        # The last step has its checkpoint, and is followed by what a run ends with.
        if not number or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        self.check()
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        if not self.checkpointer.is_last(name):
            self.checkpointer.save(name, iteration=iteration)
        # None may leave before the checkpoint is whole: its launcher would end the others.
        comm.synchronize()
        raise Interrupted(
            f"{signal.Signals(number).name} after iteration {iteration}; {name}.pth holds it, go on with --resume.",
            128 + number,
        )


@contextmanager
def signals_to_children() -> Iterator[None]:
    """Within it SIGTERM and SIGINT go to the processes that this one started, and this one goes on waiting for them."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for child in active_children():
            os.kill(child.pid, number)

    before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

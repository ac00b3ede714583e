"""Runs what is missing of a matrix, some runs at a time; whatever ends it, the next call can go on."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import InputError
from ..reporting.provenance import environment, usable_cores
from ..reporting.run_metrics import TEACHER
from .runs import DONE, RESUME, PlannedRun, write_record

# Seconds between two looks at the running processes, between two lines on how far they are, and that a process has to
# end when it is asked to.
_POLL, _NEWS, _GRACE = 0.2, 120.0, 60.0
_LOG = "output.log"


@dataclass
class _Active:
    planned: PlannedRun
    number: int
    process: subprocess.Popen
    log: IO
    start: float


class Runner:
    """Runs ``train_net.py`` once for each run that is not done.

    Args:
        script: path of train_net.py; its folder is the checkout whose commit is noted.
        jobs: runs at a time; each gets its share of the cores.
        say: told every line of progress.
        keep_weights: whether the last checkpoint of a complete run is kept; no report needs it.
    """

    def __init__(self, script: Path, jobs: int, say: Callable[[str], None] = print, keep_weights: bool = False):
        self.script = script
        self.jobs = jobs
        self.threads = max(1, usable_cores() // jobs)
        self.say = say
        self.keep_weights = keep_weights

    def run(self, plan: Sequence[PlannedRun], output: Path) -> list[str]:
        """Run what is not done, in order.

        Returns:
            one sentence for each run that failed.

        Raises:
            InputError: another call is at work on ``output``.
            KeyboardInterrupt: the user, or SIGTERM, ended it; no process is left behind.
        """
        with _locked(output) as lock, _sigterm_interrupts():
            states = [planned.state() for planned in plan]
            waiting = [(number, p) for number, (p, state) in enumerate(zip(plan, states, strict=True), 1)
                       if state != DONE]  # fmt: skip
            self.say(f"{len(plan)} runs: {len(plan) - len(waiting)} done, {len(waiting)} to do.")
            for planned, state in zip(plan, states, strict=True):
                if state == DONE:  # By a call that was killed before it could do this itself.
                    _drop_checkpoints(planned.folder, self.keep_weights)
            failures: list[str] = []
            active: list[_Active] = []
            news = time.monotonic()
            try:
                while waiting or active:
                    while waiting and len(active) < self.jobs:
                        active.append(self._start(*waiting.pop(0), len(plan), lock))
                    time.sleep(_POLL)
                    for job in [job for job in active if job.process.poll() is not None]:
                        active.remove(job)
                        failures += self._end(job, len(plan))
                    if active and time.monotonic() - news > _NEWS:
                        news = time.monotonic()
                        self.say("  at work: " + "; ".join(self._progress(job) for job in active))
            finally:
                _stop(active)
        return failures

    def _start(self, number: int, planned: PlannedRun, total: int, lock: int) -> _Active:
        resume = planned.state() == RESUME
        planned.folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            # Metrics are appended, and those of a start that left no checkpoint are no part of this one.
            planned.metrics_file.unlink(missing_ok=True)
        arguments = planned.arguments(resume)
        command = shlex.join(["python", self.script.name, *arguments])
        # The commit of each start: a matrix takes hours, in which the checkout may move on.
        made_with = environment(self.script.parent)
        write_record(planned, {**made_with, "threads": self.threads, "jobs": self.jobs, "command": command}, resume)
        log = open(planned.folder / _LOG, "a", encoding="utf-8")  # noqa: SIM115 (closed when the run ends)
        process = subprocess.Popen(
            [sys.executable, str(self.script), *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
            # In a group of its own, so that it and its workers end when this process says so; and holding the lock, so
            # that no second call starts beside it should this process be killed.
            start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        self.say(f"[{number}/{total}] {planned.run}: {'resumed' if resume else 'started'}")
        return _Active(planned, number, process, log, time.monotonic())

    def _end(self, job: _Active, total: int) -> list[str]:
        job.log.close()
        result = job.planned.result()
        minutes, seconds = divmod(round(time.monotonic() - job.start), 60)
        if job.process.returncode == 0 and result.complete:
            done = f"done in {minutes}:{seconds:02d}, teacher mIoU {result.last(TEACHER):.2f}"
            self.say(f"[{job.number}/{total}] {job.planned.run}: {done}")
            _drop_checkpoints(job.planned.folder, self.keep_weights)
            return []
        log = job.planned.folder / _LOG
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        status = f"status {job.process.returncode}" if job.process.returncode else "no last evaluation"
        failure = f"{job.planned.run} failed ({status}; {log}): {lines[-1].strip() if lines else 'it said nothing'}"
        self.say(f"[{job.number}/{total}] {failure}")
        return [failure]

    @staticmethod
    def _progress(job: _Active) -> str:
        return f"{job.planned.run} at {job.planned.result().iterations} of {job.planned.max_iter} iterations"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """A lock on the folder, held as long as this process or one that was given the descriptor lives."""
    import fcntl  # not on Windows, where the rest of this package can be imported

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written ({error.strerror}); name another folder.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise InputError(
            f"Another call is at work in {folder}, or runs that it left are; wait for them or give another --output."
        ) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drop_checkpoints(folder: Path, keep_last: bool) -> None:
    """Delete the checkpoints of a complete run: with the optimizer in each, a matrix would fill a disk."""
    pointer = folder / "last_checkpoint"
    last = pointer.read_text(encoding="utf-8").strip() if keep_last and pointer.exists() else ""
    if not keep_last:
        pointer.unlink(missing_ok=True)
    for checkpoint in folder.glob("*.pth"):
        if not keep_last or checkpoint.name not in (last, "teacher_final.pth"):
            checkpoint.unlink()


def _stop(active: Sequence[_Active]) -> None:
    """End the processes: they write a checkpoint after their step where they have the time; no file is left half."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        running = [job for job in active if job.process.poll() is None]
        for job in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, kind)
        for job in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(_GRACE)
    for job in active:
        job.log.close()

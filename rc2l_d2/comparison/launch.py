"""Train the runs of a comparison, several at a time; after an interruption the next call continues."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..reporting.provenance import usable_cores
from .runs import Run

# Seconds between two checks of the processes, and for a process to write its checkpoint after SIGTERM.
_POLL, _GRACE = 0.2, 60.0


def train_missing(
    runs: Sequence[Run], script: Path, output: Path, jobs: int = 1, keep_weights: bool = False
) -> list[str]:
    """Run train_net.py once for each of ``runs``, and return one sentence for each run that failed.

    Args:
        runs: unfinished runs, in order.
        script: path of train_net.py.
        output: folder that is locked meanwhile.
        jobs: runs at a time; they divide the processor cores.
        keep_weights: keep the checkpoints of finished runs, which tables do not need.

    Raises:
        InputError: another call works in ``output``.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the runs have ended.
    """
    failures, waiting = [], list(runs)
    active: dict[subprocess.Popen, Run] = {}
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another call, or a run it left, works in {output}; wait for its end.") from error
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    active[_start(run, script, jobs, lock.fileno())] = run
                time.sleep(_POLL)
                for process in [process for process in active if process.poll() is not None]:
                    failures += _finish(active.pop(process), process.returncode, keep_weights)
        finally:
            _stop([*active])
    return failures


def _start(run: Run, script: Path, jobs: int, lock: int) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, usable_cores() // jobs))
    with open(run.folder / "output.log", "a", encoding="utf-8") as log:
        # The run gets its own process group, to end it with its data workers. It inherits the lock: if this process is
        # killed, no second call can start beside the run.
        process = subprocess.Popen(
            [sys.executable, str(script), *run.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": threads}, start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
    print(f"{run}: started", flush=True)
    return process


def _finish(run: Run, status: int, keep_weights: bool) -> list[str]:
    if status == 0 and run.finished():
        print(f"{run}: finished", flush=True)
        for checkpoint in [] if keep_weights else [*run.folder.glob("*.pth"), run.folder / "last_checkpoint"]:
            checkpoint.unlink(missing_ok=True)
        return []
    log = run.folder / "output.log"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    print(f"{run}: failed", flush=True)
    return [f"{run} failed (status {status}; {log}): {lines[-1].strip() if lines else 'no output'}"]


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End the runs: SIGTERM lets each write a checkpoint; those left after the grace period are killed."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, kind)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)

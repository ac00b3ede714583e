"""Signals to real processes; test_resume.py has those to training runs."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO

from rc2l_d2.engine import preemption

STUCK = """
import time
from rc2l_d2.engine import preemption
preemption._SAME = 0.2
preemption.StopOnSignal(None, None).before_train()
print("ready", flush=True)
time.sleep(100)  # a step that does not end
"""
FORWARDS = """
import multiprocessing, signal, time
from rc2l_d2.engine import signals_to_children
def child():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process that was not forked
    time.sleep(0.5)  # until the parent has noted this child
    print("ready", flush=True)
    time.sleep(100)
with signals_to_children():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
print(process.exitcode, flush=True)
"""


def started(program: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, text=True, start_new_session=True, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_exits_at_once(number):
    process = started(STUCK)
    process.send_signal(number)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(10) == 128 + number


def test_signals_of_the_first_moment_count_as_one(monkeypatch):
    """From a scheduler, and forwarded by the parent."""
    now, left = [100.0], []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(preemption.os, "_exit", left.append)
    hook = preemption.StopOnSignal(None, lambda: None)
    for now[0] in (100.0, 100.1, 100.9, 101.0):
        hook._receive(signal.SIGTERM, None)
    assert not left and hook._signal == signal.SIGTERM
    now[0] = 101.1
    hook._receive(signal.SIGINT, None)
    assert left == [130]


def test_a_parent_forwards_signals_and_waits():
    process = started(FORWARDS)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "-15\n" and process.returncode == 0

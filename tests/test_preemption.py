"""Signals to real processes; test_resume.py has those to training runs."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO

STUCK = """
import time
from rc2l_d2.engine import preemption
preemption._SAME = 0.4
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
def test_a_second_signal_exits_at_once_but_not_within_the_first_moment(number):
    process = started(STUCK)
    for _ in range(2):  # from the scheduler, and forwarded by the parent
        process.send_signal(number)
        time.sleep(0.1)
    assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(10) == 128 + number


def test_a_parent_forwards_signals_and_waits():
    process = started(FORWARDS)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "-15\n" and process.returncode == 0

"""Signals, to processes of their own: what ends at once, what goes on, and who hands what on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO

STUCK = """
import time
from rc2l_d2.engine.preemption import StopOnSignal
StopOnSignal(None, None).before_train()
print("ready", flush=True)
time.sleep(100)  # a step that does not end
"""
HANDS_ON = """
import multiprocessing, signal, time
from rc2l_d2.engine import signals_to_children
def child():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process that was not forked
    print("ready", flush=True)
    time.sleep(100)
with signals_to_children():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
print(process.exitcode, flush=True)
"""
WORKER = """
import os, signal, time
from rc2l_d2.data.loading.loader import _start_worker
worker = os.fork()
if not worker:
    _start_worker(0)
    print("ready", flush=True)
    time.sleep(100)
    os._exit(7)
os.waitpid(worker, os.WUNTRACED | os.WNOHANG)
time.sleep(3)  # the test's signal to the group comes now
print(os.waitpid(worker, os.WNOHANG), flush=True)
os.kill(worker, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""


def started(program: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_at_once_and_one_that_comes_twice_does_not(number):
    process = started(STUCK)
    for _ in range(2):  # from the scheduler and from the parent that hands it on
        process.send_signal(number)
        time.sleep(0.3)
    assert process.poll() is None
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(10) == 128 + number


def test_a_parent_hands_signals_on_and_waits():
    process = started(HANDS_ON)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "-15\n" and process.returncode == 0


def test_a_data_worker_ends_when_its_parent_says_so_and_not_with_its_group():
    process = started(WORKER)
    worker = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]))
    for number in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["kill", f"-{number}", str(worker)], check=True)
    assert process.communicate(timeout=20)[0].splitlines() == ["(0, 0)", "0"]

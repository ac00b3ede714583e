"""Signals to real processes; test_resume.py has those to training runs."""

from __future__ import annotations

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
    print("ready", flush=True)
    time.sleep(100)
with signals_to_children():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
print(process.exitcode, flush=True)
"""
WORKER = """
import os, signal, sys, time
from rc2l_d2.data.loading.loader import _start_worker
worker = os.fork()
if not worker:
    _start_worker(0)
    print("ready", flush=True)
    time.sleep(100)
    os._exit(7)
os.waitpid(worker, os.WUNTRACED | os.WNOHANG)
sys.stdin.readline()  # the test has signalled the worker
time.sleep(0.3)
print(os.waitpid(worker, os.WNOHANG), flush=True)
os.kill(worker, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""


def started(program: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
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


def test_a_data_worker_ends_by_its_parent_and_not_with_its_process_group():
    process = started(WORKER)
    worker = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]))
    for number in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["kill", f"-{number}", str(worker)], check=True)
    assert process.communicate("go\n", timeout=20)[0].splitlines() == ["(0, 0)", "0"]

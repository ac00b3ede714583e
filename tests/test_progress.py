"""Console progress: text, measured scalars, and the bar in a terminal (test_toy_demo.py has the output to a pipe)."""

import contextlib
import logging
import os
import pty
import re
import termios
import types

import pytest

from rc2l_d2.engine.progress import PROGRESS_LOGGER, ProgressLine, progress_text
from rc2l_d2.host import EventStorage


def test_text_of_known_scalars():
    scalars = {
        "data_time": 0.00123, "gradient_norm": 3.0, "total_loss": 5.6789, "loss_ce": 1.25, "loss_ce_0": 9.0,
        "loss_rmc": 0.5, "time": 0.25, "lr": 0.0005, "pseudo/confident_share": 0.834, "sem_seg/mIoU": 41.26,
        "sem_seg/mIoU_best": 50.0, "images_per_second": 31.96, "eta_seconds": 3725.4, "max_mem": 1234.4,
    }  # fmt: skip
    expected = (
        "total_loss: 5.679  sem_seg/mIoU: 41.3  pseudo/confident_share: 83%  images_per_second: 32  max_mem: 1234M  "
        "loss_ce: 1.25  loss_rmc: 0.5  data_time: 0.0012  time: 0.2500  lr: 0.0005"
    )
    assert progress_text(scalars) == f"eta: 1:02:05  {expected}"
    assert progress_text(scalars, 39) == f"eta: 1:02:05  iter: 39  {expected}"
    assert progress_text({"total_loss": 1.0}, 0) == "iter: 0  total_loss: 1" and progress_text({}) == ""
    assert progress_text({"a/sem_seg_teacher/mIoU": 2.0, "b/sem_seg/mIoU": 3.0}).count("mIoU: ") == 2


def steps(line: ProgressLine, number: int):
    """Call the hook for the first steps of a run of 100; yield the storage after each."""
    line.trainer = types.SimpleNamespace(max_iter=100, iter=0)
    with EventStorage() as storage:
        line.before_train()
        for line.trainer.iter in range(number):
            storage.iter = line.trainer.iter
            # Half a second per step; the last of each 20 takes longer, like one that writes a checkpoint.
            storage.put_scalar("time", 10.5 if line.trainer.iter % 20 == 19 else 0.5)
            line.after_step()
            yield storage
        line.after_train()


def test_time_left_and_images_per_second(logged):
    latest = [dict(storage.latest()) for storage in steps(ProgressLine(labeled=4, unlabeled=8, burn_in=30), 60)]
    assert latest[19]["images_per_second"][0] == pytest.approx(4 / 1.0), "labelled images only in burn-in"
    assert latest[19]["eta_seconds"][0] == pytest.approx(80 * 0.5)
    assert latest[59]["images_per_second"][0] == pytest.approx(12 / 1.0)
    assert latest[59]["eta_seconds"][0] == pytest.approx(40 * 0.5)
    assert latest[59]["max_mem"][0] > 50
    assert [re.search(r"iter: (\d+)", message)[1] for _, message in logged] == ["19", "39", "59"]


def test_a_terminal_shows_a_bar_and_the_file_has_the_lines(monkeypatch, tmp_path):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 150))
    logger = logging.getLogger("rc2l_d2")
    monkeypatch.setattr(logger, "level", logging.INFO)
    with open(slave, "w") as terminal, open(tmp_path / "log.txt", "w") as file:
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr("sys.stderr", terminal)
        handlers = [logging.StreamHandler(stream) for stream in (terminal, file)]
        monkeypatch.setattr(logger, "handlers", handlers)
        for number, _ in enumerate(steps(ProgressLine(4, 8, 30), 24)):
            if number == 22:
                logging.getLogger("rc2l_d2.other").info("a message")
    shown = b""
    with contextlib.suppress(OSError):  # Linux raises it when the other end is closed.
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    shown = shown.decode()
    assert "24/100, eta: 0:00:40  images_per_second: 4  max_mem: " in shown
    assert "a message" in shown and "iter: " not in shown
    log = (tmp_path / "log.txt").read_text()
    assert re.findall(r"iter: (\d+)", log) == ["19"] and "a message" in log and "\r" not in log and "\x1b" not in log
    assert PROGRESS_LOGGER.startswith("rc2l_d2.")

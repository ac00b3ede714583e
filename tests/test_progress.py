"""The line that tells how a run goes: what it says, and where it says it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from conftest import REPO

from rc2l_d2.engine.progress import ProgressLine, log_line, short_line
from rc2l_d2.host import EventStorage, SimpleTrainer

KNOWN = {
    "data_time": 0.00123, "gradient_norm": 3.0, "total_loss": 5.6789, "loss_ce": 1.25, "loss_ce_0": 9.0,
    "loss_rmc": 0.5, "time": 0.25, "lr": 0.0005, "pseudo/confident_share": 0.834, "sem_seg/mIoU": 41.26,
    "sem_seg_teacher/mIoU": 43.04, "images_per_second": 31.96, "eta_seconds": 3725.4, "max_mem": 1234.4,
}  # fmt: skip


def test_the_lines_at_a_known_state():
    assert log_line(39, KNOWN) == (
        "eta: 1:02:05  iter: 39  total_loss: 5.679  loss_ce: 1.25  loss_rmc: 0.5  mIoU: 41.3 (teacher 43.0)  "
        "confident: 83%  images/s: 32  time: 0.2500  data_time: 0.0012  lr: 0.0005  max_mem: 1234M"
    )
    assert short_line(KNOWN) == (
        "1:02:05 left, loss 5.68, mIoU 41.3 (teacher 43.0), 83% confident, 32 images/s, 1234 MB, loss_ce 1.25, "
        "loss_rmc 0.5"
    )


def test_what_is_not_known_is_left_out_and_each_data_set_has_its_miou():
    assert log_line(0, {"total_loss": 1.0}) == "iter: 0  total_loss: 1"
    assert short_line({}) == ""
    names = [f"{data}/{task}/mIoU" for data in "ab" for task in ("sem_seg", "sem_seg_teacher")]
    several = dict(zip(names, (1.0, 2.0, 3.0, 4.0), strict=True))
    assert short_line(several) == "mIoU 1.0 (teacher 2.0), 3.0 (teacher 4.0)"
    assert "0% confident" in short_line({"pseudo/confident_share": 0.0})


def test_time_left_and_images_a_second_by_hand(told):
    trainer = SimpleTrainer.__new__(SimpleTrainer)
    line = ProgressLine(labeled=4, unlabeled=8, burn_in=30)
    line.trainer = trainer
    trainer.max_iter = 100
    with EventStorage() as storage:
        for trainer.iter in range(60):
            storage.iter = trainer.iter
            # Half a second a step; the last of each 20 takes longer, as one with a checkpoint does.
            storage.put_scalar("time", 10.5 if trainer.iter % 20 == 19 else 0.5)
            line.after_step()
            if trainer.iter == 19:
                assert storage.latest()["images_per_second"][0] == pytest.approx(4 / 1.0), "burn-in: labels alone"
                assert storage.latest()["eta_seconds"][0] == pytest.approx(80 * 0.5)
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["images_per_second"] == pytest.approx(12 / 1.0) and latest["eta_seconds"] == pytest.approx(40 * 0.5)
    assert latest["max_mem"] > 50
    assert [re.search(r"iter: (\d+)", message)[1] for _, message in told] == ["19", "39", "59"]


def test_a_terminal_has_a_living_line_and_the_file_one_now_and_then(tiny_options, tmp_path):
    """What is piped is looked at in test_toy_demo.py."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "train_net.py", "--config-file", "configs/toy/rc2l_R18.yaml", *tiny_options,
         "SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "24", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "18"],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    shown = shown.decode()
    assert process.wait(100) == 0, shown
    assert "Starting training from iteration 0" in shown and "copypaste: " in shown
    # Which iterations the bar shows is a matter of time; what it says of the 20th stays until the end.
    assert re.search(r"2\d/24, 0:00:\d\d left, loss [\d.]+, \d+% confident, [\d.]+ im", shown)
    assert re.search(r"24/24, .* mIoU ", shown.splitlines()[-1]), "the last one, with the evaluation"
    assert "eta:" not in shown, "the bar says it"
    log = (tmp_path / "out/log.txt").read_text()
    assert re.findall(r"eta: .* iter: (\d+)  total_loss: .* confident: .* max_mem: ", log) == ["19", "23"]
    trained = log.split("Starting training")[1]  # before it Detectron2 shows the configuration in colours
    assert "\r" not in trained and "\x1b" not in trained

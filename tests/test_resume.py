"""An interrupted run that is resumed ends as one in one piece: to the bit, by the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPO

# Dropout and sampled positions draw from torch's generator, batch statistics and momentum carry state.
OPTIONS = """
    MODEL.META_ARCHITECTURE PixelContrast MODEL.PIXEL.CONTRAST_SAMPLES 32 MODEL.MASK_FORMER.DROPOUT 0.2
    SOLVER.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH_UNLABELED 4 SOLVER.MAX_ITER 12 SOLVER.CHECKPOINT_PERIOD 4
""".split()


def flat(value, prefix: str = "") -> dict:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


def scores(out: Path) -> dict:
    """The evaluation at the end."""
    rows = map(json.loads, (out / "metrics.json").read_text().splitlines())
    return {key: value for row in rows for key, value in row.items() if key.startswith("sem_seg")}


@pytest.mark.parametrize("processes, workers", [(1, 0), (2, 2)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tiny_options, tmp_path, processes, workers):
    def start(out: Path, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "train_net.py", "--config-file", "configs/toy/rc2l_R18.yaml", "--num-gpus",
                   str(processes), "--dist-url", "auto", *arguments, *tiny_options, *OPTIONS,
                   "DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(out)]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(tmp_path / f"{out.name}.log", "a") as log:
            return subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log, start_new_session=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(200) == 0, (tmp_path / "whole.log").read_text()
    run = start(killed)
    end = time.monotonic() + 100
    while not (killed / "model_0000007.pth").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (killed / "model_final.pth").exists()
    assert start(killed, "--resume").wait(200) == 0, (tmp_path / "killed.log").read_text()
    assert "Starting training from iteration 8" in (killed / "log.txt").read_text()

    one, other = (flat(torch.load(out / "model_final.pth", weights_only=True)) for out in (whole, killed))
    assert one.keys() == other.keys() and any("exp_avg" in name for name in one)
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name
    assert "sem_seg_teacher/mIoU" in scores(whole)
    # As text, in which a class that no image holds, NaN, is equal to itself.
    assert json.dumps(scores(whole)) == json.dumps(scores(killed))

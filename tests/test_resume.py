"""An interrupted run that is resumed ends as one in one piece: to the bit, by the real command line."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPO, TINY

# Dropout and sampled positions draw from torch's generator, batch statistics and momentum carry state.
OPTIONS = """
    MODEL.META_ARCHITECTURE PixelContrast MODEL.PIXEL.CONTRAST_SAMPLES 32 MODEL.MASK_FORMER.DROPOUT 0.2
    SOLVER.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH_UNLABELED 4 SOLVER.MAX_ITER 12 SOLVER.CHECKPOINT_PERIOD 4
    TEST.EVAL_PERIOD 4
""".split()


def flat(value, prefix: str = "") -> dict:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


def evaluated(out: Path) -> dict[int, dict]:
    """Iteration -> the evaluation then, as metrics.json has it last."""
    rows = map(json.loads, (out / "metrics.json").read_text().splitlines())
    return {row["iteration"]: {key: value for key, value in row.items() if key.startswith("sem_seg")}
            for row in rows if "sem_seg/mIoU" in row}  # fmt: skip


class Runs:
    """Starts ``train_net.py`` on the tiny set with so many processes and workers."""

    def __init__(self, definition: str, folder: Path):
        self.definition, self.folder = definition, folder

    def start(
        self, name: str, processes: int, workers: int, *arguments: str,
        launcher: tuple[str, ...] = (), options: tuple[str, ...] = (),
    ) -> subprocess.Popen:  # fmt: skip
        command = [
            sys.executable, *launcher, "train_net.py", "--config-file", "configs/toy/rc2l_R18.yaml", *arguments,
            "--num-gpus", str(processes), "--dist-url", "auto", *TINY, *OPTIONS,
            "DATALOADER.NUM_WORKERS", str(workers), "DATASETS.DEFINITIONS", f"('{self.definition}',)",
            "DATASETS.TRAIN", "('tiny_labeled',)", "DATASETS.UNLABELED", "('tiny_unlabeled',)",
            "DATASETS.TEST", "('tiny_val',)", "OUTPUT_DIR", str(self.folder / name), *options,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.log", "a") as log:
            return subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log, start_new_session=True)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @functools.cache  # noqa: B019 (as long as the module's tests run)
    def whole(self, processes: int) -> Path:
        """OUTPUT_DIR of a run that nothing interrupted."""
        name = f"whole_{processes}"
        assert self.start(name, processes, 0).wait(300) == 0, self.log(name)
        return self.folder / name


@pytest.fixture(scope="module")
def runs(toy_definition, tmp_path_factory) -> Runs:
    return Runs(toy_definition, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    "processes, workers, number",
    [(1, 0, signal.SIGKILL), (2, 2, signal.SIGKILL), (1, 2, signal.SIGTERM), (2, 0, signal.SIGINT)],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(runs, processes, workers, number):
    name = f"{number.name}_{processes}"
    out = runs.folder / name
    run = runs.start(name, processes, workers)
    pointer = out / "last_checkpoint"
    end = time.monotonic() + 200
    while not (pointer.exists() and pointer.read_text() == "model_0000007.pth") and time.monotonic() < end:
        time.sleep(0.01)
    # As schedulers and terminals do it: to the whole group, data workers too.
    os.killpg(run.pid, number)
    status = run.wait(100)
    assert not (out / "model_final.pth").exists()
    if number == signal.SIGKILL:
        start = 8
    else:
        assert status == 128 + number, runs.log(name)
        said = runs.log(name)
        told = re.search(rf"train_net.py: {number.name} after iteration (\d+); (model_\d+.pth) holds it", said)
        start = int(told[1]) + 1
        assert pointer.read_text() == told[2] and "Traceback" not in said
    assert runs.start(name, processes, workers, "--resume").wait(300) == 0, runs.log(name)
    assert f"Starting training from iteration {start}\n" in (out / "log.txt").read_text()

    assert_same(runs.whole(processes), out, [3, 7, 12])


def assert_same(whole: Path, out: Path, evaluations: list[int]) -> None:
    """Bit by bit: checkpoint at the end, and evaluations."""
    one, other = (flat(torch.load(o / "model_final.pth", weights_only=True)) for o in (whole, out))
    assert one.keys() == other.keys() and any("exp_avg" in name for name in one)
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name
    # The same metrics, as text, in which a class that no image holds, NaN, is equal to itself.
    both = [evaluated(o) for o in (whole, out)]
    assert [*both[0]] == evaluations and json.dumps(both[0]) == json.dumps(both[1])


def test_twenty_kills_lose_no_more_than_what_no_checkpoint_has(runs):
    options = ("SOLVER.MAX_ITER", "100", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_KEEP", "2")
    rarely, often = (*options, "SOLVER.CHECKPOINT_PERIOD", "100"), (*options, "SOLVER.CHECKPOINT_PERIOD", "1")
    assert runs.start("in_one_piece", 1, 0, options=rarely).wait(300) == 0, runs.log("in_one_piece")
    out, moments, held, in_writing = runs.folder / "killed", random.Random(0), -1, 0
    unfinished, log = out / "checkpoint.tmp", functools.partial(runs.log, "killed")
    for kill in range(20):
        # Only for this test, which waits for the next one: the run itself writes over it.
        unfinished.unlink(missing_ok=True)
        written = log().count("Saving checkpoint") if kill else 0
        run = runs.start("killed", 1, 0, "--resume", options=often)
        # After none to three checkpoints; every other time within the writing of the next one.
        written += moments.randrange(4)
        while run.poll() is None and (
            log().count("Starting training from") <= kill or log().count("Saving checkpoint") < written
        ):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        while kill % 2 and run.poll() is None and not unfinished.exists():
            time.sleep(0.0005)
        assert run.poll() is None, "it has ended before it could be killed twenty times"
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait(100) == -signal.SIGKILL, log()
        in_writing += unfinished.exists()
        starts = [int(start) for start in re.findall(r"Starting training from iteration (\d+)", log())]
        # What a checkpoint held before this start was not lost.
        assert len(starts) == kill + 1 and starts[-1] > held
        pointer = out / "last_checkpoint"
        held = int(pointer.read_text()[len("model_") : -len(".pth")]) if pointer.exists() else -1
    assert in_writing >= 5 and held >= 10
    assert runs.start("killed", 1, 0, "--resume", options=often).wait(300) == 0, runs.log("killed")
    assert_same(runs.folder / "in_one_piece", out, [100])


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds torchrun's processes in /proc")
def test_torchrun_ends_all_processes_when_one_dies_and_starts_them_again(runs):
    out = runs.folder / "torchrun"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    run = runs.start("torchrun", 2, 0, "--resume", launcher=launcher)
    pointer = out / "last_checkpoint"
    while run.poll() is None and not (pointer.exists() and pointer.read_text() == "model_0000007.pth"):
        time.sleep(0.01)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    assert run.wait(300) == 0, runs.log("torchrun")
    told = (out / "log.txt").read_text()
    assert "Starting training from iteration 0\n" in told and "Starting training from iteration 8\n" in told
    assert_same(runs.whole(2), out, [3, 7, 12])

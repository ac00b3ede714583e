"""An interrupted and resumed run ends bit by bit like an uninterrupted one, through the real command line."""

import functools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPO, tiny_overrides

# Dropout and sampled pixels use torch's generator; batch statistics, momentum and classes of regions carry state.
OPTIONS = """
    MODEL.META_ARCHITECTURE PixelContrast MODEL.PIXEL.CONTRAST_SAMPLES 32 MODEL.SEM_SEG_HEAD.ASPP_DROPOUT 0.2
    MODEL.MASK_FORMER.CLASS_MEMORY 10.0
    SOLVER.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH_UNLABELED 4 SOLVER.MAX_ITER 12 SOLVER.CHECKPOINT_PERIOD 4
    TEST.EVAL_PERIOD 4
""".split()


class Runs:
    """Starts ``train_net.py`` on the tiny set; each run has a folder and a log by its name."""

    def __init__(self, definition: str, folder: Path):
        self.definition, self.folder = definition, folder

    def arguments(self, name: str, *arguments: str) -> list[str]:
        """Return the command's arguments; ``arguments`` are flags, then configuration keys and values."""
        flags = [argument for argument in arguments if argument.startswith("--")]
        overrides = [*tiny_overrides(self.definition), *OPTIONS, "OUTPUT_DIR", str(self.folder / name)]
        return ["--config-file", "configs/toy/rc2l_R18.yaml", *flags, *overrides, *arguments[len(flags) :]]

    def start(self, name: str, ranks: int, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        flags = () if launcher else ("--num-gpus", str(ranks), "--dist-url", "auto")
        command = [sys.executable, *launcher, "train_net.py", *flags, *self.arguments(name, *arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.log", "a") as log:
            return subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, name: str, ranks: int, *arguments: str) -> Path:
        """Wait for a run to succeed; return its OUTPUT_DIR."""
        assert self.start(name, ranks, *arguments).wait(300) == 0, self.log(name)
        return self.folder / name

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @functools.cache  # noqa: B019 (lives as long as the module's tests)
    def uninterrupted(self, ranks: int) -> Path:
        return self.finish(f"uninterrupted_{ranks}", ranks)


@pytest.fixture(scope="module")
def runs(toy_definition, tmp_path_factory) -> Runs:
    return Runs(toy_definition, tmp_path_factory.mktemp("runs"))


def wait_for(run: subprocess.Popen, condition: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def last_checkpoint(out: Path) -> int:
    """Return the iteration of the last checkpoint, -1 without any."""
    pointer = out / "last_checkpoint"
    return int(re.search(r"\d+", pointer.read_text())[0]) if pointer.exists() else -1


def flat(value, prefix: str = "") -> dict:
    """Return every leaf of a checkpoint by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


def starts(out: Path) -> list[str]:
    """Return the first iteration of each start of a run, from its log."""
    return re.findall(r"Starting training from iteration (\d+)\n", (out / "log.txt").read_text())


def evaluations(out: Path) -> dict[int, dict]:
    rows = map(json.loads, (out / "metrics.json").read_text().splitlines())
    return {row["iteration"]: {key: value for key, value in row.items() if key.startswith("sem_seg")}
            for row in rows if "sem_seg/mIoU" in row}  # fmt: skip


def assert_same(one: Path, other: Path, iterations: list[int]) -> None:
    """Compare the final checkpoints and the evaluations bit by bit."""
    first, second = (flat(torch.load(out / "model_final.pth", weights_only=True)) for out in (one, other))
    assert first.keys() == second.keys() and any("exp_avg" in name for name in first)
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name
    # As text, where NaN (a class without pixels) equals itself.
    assert [*evaluations(one)] == iterations and json.dumps(evaluations(one)) == json.dumps(evaluations(other))


def test_a_run_resumed_after_sigterm_equals_an_uninterrupted_one(runs, command_line, request):
    """In the test's own process, to be fast."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or a late signal would end pytest
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, previous))
    out = runs.folder / "fast"
    options = """
        SOLVER.CHECKPOINT_PERIOD 2 DATALOADER.NUM_WORKERS 1 SOLVER.MAX_ITER 8 SOLVER.IMS_PER_BATCH 2
        SOLVER.IMS_PER_BATCH_UNLABELED 2
    """.split()
    assert command_line(*runs.arguments("fast_uninterrupted", *options)).returncode == 0

    def interrupt():
        while last_checkpoint(out) < 3:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    result = command_line(*runs.arguments("fast", *options))
    assert result.returncode == 143 and re.search(r"SIGTERM after iteration \d+; \S+ is saved", result.stderr)
    assert command_line(*runs.arguments("fast", "--resume", *options)).returncode == 0
    assert_same(runs.folder / "fast_uninterrupted", out, [3, 8])


@pytest.mark.slow
@pytest.mark.parametrize("ranks, workers, number", [
    (1, 0, signal.SIGKILL), (2, 2, signal.SIGKILL), (1, 2, signal.SIGTERM), (2, 0, signal.SIGINT)
])  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one(runs, ranks, workers, number):
    name = f"{number.name}_{ranks}"
    out, options = runs.folder / name, ("DATALOADER.NUM_WORKERS", str(workers))
    if number == signal.SIGINT:  # Equals the run without sharding.
        options += ("SOLVER.SHARD_OPTIMIZER", "True")
    run = runs.start(name, ranks, *options)
    wait_for(run, lambda: last_checkpoint(out) == 7)
    # To the whole process group, data workers too, as schedulers and terminals do.
    os.killpg(run.pid, number)
    status = run.wait(100)
    assert not (out / "model_final.pth").exists()
    start = 8
    if number != signal.SIGKILL:
        assert status == 128 + number, runs.log(name)
        found = re.search(rf"train_net.py: {number.name} after iteration (\d+); (\S+) is saved", runs.log(name))
        start = int(found[1]) + 1
        assert (out / "last_checkpoint").read_text() == found[2] and "Traceback" not in runs.log(name)
    runs.finish(name, ranks, "--resume", *options)
    assert f"Starting training from iteration {start}\n" in (out / "log.txt").read_text()
    assert_same(runs.uninterrupted(ranks), out, [3, 7, 12])


@pytest.mark.slow
def test_twenty_kills_lose_only_the_steps_since_the_last_checkpoint(runs):
    often = ("SOLVER.MAX_ITER", "100", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_KEEP", "2",
             "SOLVER.CHECKPOINT_PERIOD", "1")  # fmt: skip
    uninterrupted = runs.finish("hundred", 1, *often, "SOLVER.CHECKPOINT_PERIOD", "100")
    out, moments, saved, while_writing = runs.folder / "killed", random.Random(0), -1, 0
    unfinished, log = out / "checkpoint.tmp", functools.partial(runs.log, "killed")
    for kill in range(20):
        unfinished.unlink(missing_ok=True)  # The run would overwrite it; this test waits for the next one.
        written = log().count("Saving checkpoint") if kill else 0
        run = runs.start("killed", 1, "--resume", *often)
        # After up to three checkpoints; every other time while the next one is written.
        written += moments.randrange(4)
        started = functools.partial(lambda kill: log().count("Starting training from") > kill, kill)
        wait_for(run, started)
        wait_for(run, functools.partial(lambda written: log().count("Saving checkpoint") >= written, written))
        time.sleep(moments.uniform(0, 0.1))
        if kill % 2:
            wait_for(run, unfinished.exists)
        assert run.poll() is None, "the run ended before the twentieth kill"
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait(100) == -signal.SIGKILL, log()
        while_writing += unfinished.exists()
        starts = [int(start) for start in re.findall(r"Starting training from iteration (\d+)", log())]
        assert len(starts) == kill + 1 and starts[-1] > saved, "a saved step was lost"
        saved = last_checkpoint(out)
    assert while_writing >= 5 and saved >= 10
    assert_same(uninterrupted, runs.finish("killed", 1, "--resume", *often), [100])


def children(run: subprocess.Popen) -> list[int]:
    return [int(child) for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]


needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="finds the ranks of a launcher in /proc")


@pytest.mark.slow
@needs_proc
def test_torchrun_ends_all_ranks_when_one_dies_and_restarts_them(runs):
    out = runs.folder / "torchrun"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    run = runs.start("torchrun", 2, "--resume", launcher=launcher)
    wait_for(run, lambda: last_checkpoint(out) == 7)
    ranks = children(run)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert run.wait(300) == 0, runs.log("torchrun")
    assert starts(out) == ["0", "8"]
    assert_same(runs.uninterrupted(2), out, [3, 7, 12])


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", ["torchrun", "num_machines"])
def test_a_lost_machine_of_two_is_replaced(runs, name, monkeypatch):
    """Two launchers with two ranks each, as docs/training.md starts them; one is killed with its ranks."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    run_name = f"machines_{name}"
    out = runs.folder / run_name
    torchrun = f"""
        -m torch.distributed.run --nnodes 2 --nproc-per-node 2 --max-restarts 1
        --rdzv-backend c10d --rdzv-endpoint {address} --rdzv-id {run_name}
    """.split()

    def start(machine: int) -> subprocess.Popen:
        if name == "torchrun":
            return runs.start(run_name, 2, "--resume", launcher=(*torchrun,))
        machines = ("--num-machines=2", f"--machine-rank={machine}", f"--dist-url=tcp://{address}")
        return runs.start(run_name, 2, "--resume", *machines)

    first, lost = start(0), start(1)
    wait_for(first, lambda: last_checkpoint(out) == 7)
    for process in (lost.pid, *children(lost)):
        os.kill(process, signal.SIGKILL)
    lost.wait()
    if name == "num_machines":  # Nothing restarts the ranks of the other machine.
        assert first.wait(100) == 1, runs.log(run_name)
        first = start(0)
    assert [run.wait(300) for run in (first, start(1))] == [0, 0], runs.log(run_name)
    assert starts(out) == ["0", "8"]
    assert_same(runs.uninterrupted(4), out, [3, 7, 12])

"""Training runs in processes of their own, and what they leave in OUTPUT_DIR."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import REPO, fork_server, tiny_overrides

# Dropout and sampled pixels use torch's generator; batch statistics, momentum and classes of regions carry state.
OPTIONS = """
    MODEL.META_ARCHITECTURE PixelContrast MODEL.PIXEL.CONTRAST_SAMPLES 32 MODEL.SEM_SEG_HEAD.ASPP_DROPOUT 0.2
    MODEL.MASK_FORMER.CLASS_MEANS 10.0
    SOLVER.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH_UNLABELED 4 SOLVER.MAX_ITER 7 SOLVER.CHECKPOINT_PERIOD 4
    TEST.EVAL_PERIOD 4
""".split()


class Fork:
    """A run in a process of conftest.fork_server, with what is used here of ``subprocess.Popen``."""

    def __init__(self, log: str, arguments: list[str]):
        self._process = fork_server().Process(target=_train, args=(log, arguments))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still runs after {seconds} s"
        return self._process.exitcode


def _train(log: str, arguments: list[str]) -> None:
    """Call ``train_net.py`` in this process; its ranks are forks too."""
    from rc2l_d2.commands import train

    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(REPO)
    torch.set_num_threads(1)
    starts = torch.multiprocessing.start_processes
    torch.multiprocessing.start_processes = functools.partial(starts, start_method="fork")
    sys.argv = ["train_net.py", *arguments]
    sys.exit(train.run())


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

    def fork(self, name: str, *arguments: str) -> Fork:
        return Fork(str(self.folder / f"{name}.log"), self.arguments(name, *arguments))

    def finish(self, name: str, run: subprocess.Popen | Fork) -> Path:
        """Wait for a run to succeed; return its OUTPUT_DIR."""
        assert run.wait(300) == 0, self.log(name)
        return self.folder / name

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @functools.cache  # noqa: B019 (lives as long as the module's tests)
    def uninterrupted(self, ranks: int) -> Path:
        name = f"uninterrupted_{ranks}"
        return self.finish(name, self.fork(name, f"--num-gpus={ranks}", "--dist-url=auto"))


def wait_for(run: subprocess.Popen | Fork, condition: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def last_checkpoint(out: Path) -> int:
    """Return the iteration of the last checkpoint: -1 without any, ``sys.maxsize`` for that of the last iteration."""
    pointer = out / "last_checkpoint"
    found = re.search(r"-?\d+|final", pointer.read_text() if pointer.exists() else "-1")[0]
    return sys.maxsize if found == "final" else int(found)


def starts(out: Path) -> list[int]:
    """Return the first iteration of each start of a run, from its log."""
    return [
        int(start) for start in re.findall(r"Starting training from iteration (\d+)\n", (out / "log.txt").read_text())
    ]


def assert_same(one: Path, other: Path, iterations: list[int]) -> None:
    """Compare the final checkpoints and the evaluations bit by bit."""
    first, second = (_flat(torch.load(out / "model_final.pth", weights_only=True)) for out in (one, other))
    assert first.keys() == second.keys() and any("exp_avg" in name for name in first)
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name
    # As text, where NaN (a class without pixels) equals itself.
    assert [*_evaluations(one)] == iterations and json.dumps(_evaluations(one)) == json.dumps(_evaluations(other))


def _flat(value, prefix: str = "") -> dict:
    """Return every leaf of a checkpoint by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in _flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


def _evaluations(out: Path) -> dict[int, dict]:
    rows = map(json.loads, (out / "metrics.json").read_text().splitlines())
    return {row["iteration"]: {key: value for key, value in row.items() if key.startswith("sem_seg")}
            for row in rows if "sem_seg/mIoU" in row}  # fmt: skip

"""The benchmarks, by their real command lines on sizes that say nothing about speed: their tables are complete."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPO, TINY


def table(script: str, *arguments: str) -> dict[str, list[float]]:
    """First column -> the numbers of its row, of the one table that ``script`` prints; all of them finite."""
    result = subprocess.run(
        [sys.executable, f"tools/dev/bench/{script}", *arguments],
        cwd=REPO, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    head, body = re.split(r"^-[- ]*$", result.stdout, flags=re.MULTILINE)
    rows = {}
    for line in body.strip().splitlines():
        name, *cells = re.split(r" {2,}", line.strip())
        rows[name] = [float(number) for cell in cells for number in re.findall(r"\d+(?:\.\d+)?", cell)]
    assert "torch" in head
    return rows


@pytest.fixture
def tiny(toy_definition) -> list[str]:
    """The toy configuration, made tiny."""
    return ["--config-file", "configs/toy/rc2l_R18.yaml", "--rounds", "3", *TINY,
            "DATASETS.DEFINITIONS", f"('{toy_definition}',)", "DATASETS.TRAIN", "('tiny_labeled',)",
            "DATASETS.UNLABELED", "('tiny_unlabeled',)", "DATASETS.TEST", "('tiny_val',)"]  # fmt: skip


def test_peak_memory_is_of_what_is_there_at_once():
    spec = importlib.util.spec_from_file_location("measure", REPO / "tools" / "bench" / "measure.py")
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)

    def work() -> None:
        first = torch.zeros(1_000_000)
        second = first.clone()
        del first
        torch.cat([second, second[:500_000]])

    assert measure.peak_memory(work, torch.device("cpu")) == pytest.approx(10, rel=0.01)  # MB: 4 + 6, after 4 + 4


@pytest.mark.parametrize("script", ["step.py", "memory.py"])
def test_a_mistake_is_told_in_one_sentence(script):
    result = subprocess.run(
        [sys.executable, f"tools/dev/bench/{script}", "--config-file", "configs/toy/rc2l_R18.yaml", "SOLVER.NO", "1"],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"{script}: SOLVER.NO in the command line is not a config key")
    assert result.stderr.count("\n") == 1


def test_step(tiny):
    rows = table("step.py", *tiny)
    parts = ["step", "floor", "regions", "optimizer", "ema", "reading"]
    assert [name for name in rows if name in parts] == parts
    assert rows["step"][1:] == [1, 1, 1]
    for name in parts[1:]:
        milliseconds, middle, low, high = rows[name]
        assert milliseconds > 0 and 0 < low <= middle <= high
    # A part that does all that it says takes a while, and less than the whole.
    assert rows["regions"][1] + rows["ema"][1] < 1 and rows["floor"][1] > 0.3


def test_loader(tiny):
    rows = table("loader.py", "--images", "7", *tiny)
    assert set(rows) == {"labelled", "unlabelled"}
    assert all(rate > 0 for row in rows.values() for rate in row)


def test_memory(tiny):
    options = tiny[: tiny.index("DATASETS.DEFINITIONS")]  # it reads no data
    at = options.index("--rounds")
    options[at : at + 2] = ["--rounds", "1", "--crops", "64x96", "--passes", "1", "--precisions", "mixed"]
    rows = table("memory.py", *options)
    assert [*rows] == ["64x96"]
    size, peak, seconds, rate = rows["64x96"]
    assert size == 1 and 200 < peak < 5000 and seconds > 0 and rate == pytest.approx(4 / seconds, rel=0.1)


def test_inference(tiny):
    windows = ["TEST.SLIDING_WINDOW.ENABLED", "True", "TEST.SLIDING_WINDOW.CROP_SIZE", "(32,48)"]
    windows += ["TEST.SLIDING_WINDOW.STRIDE", "(24,24)"]
    for options in ([], windows):
        rows = table("inference.py", "--images", "3", *tiny, *options)
        assert list(rows) == ["evaluation", "straightforward"]
        assert rows["evaluation"][0] == pytest.approx(rows["straightforward"][0], abs=0.1)
        assert all(value > 0 for row in rows.values() for value in row[1:])


def test_matching():
    rows = table("matching.py", "--images", "2", "--queries", "8", "--classes", "5", "--size", "16", "--rounds", "2")
    assert rows["matching"][0] > rows["matching"][1] > 0
    of_values = [name for name in rows if name.endswith("finite matches: {'hungarian': True, 'class': True}")]
    beside = 0 if importlib.util.find_spec("transformers") is None else 2
    assert len(rows) == 6 + beside and len(of_values) == 3


def test_growth(tmp_path):
    picture = tmp_path / "growth.png"
    small = ["--images", "1", "--queries", "6", "--classes", "4", "--channels", "8", "--rounds", "2"]
    rows = table("growth.py", *small, "--sizes", "8", "16", "32", "--reference", "8", "--limit", "0.002",
                 "--picture", str(picture))  # fmt: skip
    assert [rows[f"{size}x{size}"][0] for size in (8, 16, 32)] == [1, 4, 16]
    assert len(rows["8x8"]) == len(rows["16x16"]) == 9
    # 20 bytes for each of (32 * 32)^2 pairs would not fit into 2 MB.
    assert len(rows["32x32"]) == 6 and rows["32x32"][-1] == 21
    assert picture.stat().st_size > 5000


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra 'bench'")
def test_supervised_step():
    rows = table("supervised_step.py", "--images", "1", "--size", "64", "--rounds", "1")
    assert rows["rc2l_d2"][0] > 0 and rows["transformers"][0] > 0


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_without_transformers_the_supervised_step_says_what_to_install():
    result = subprocess.run(
        [sys.executable, "tools/dev/bench/supervised_step.py"], cwd=REPO, capture_output=True, text=True
    )
    assert result.returncode == 2 and ".[bench]" in result.stderr and len(result.stderr.splitlines()) == 1

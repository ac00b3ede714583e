"""The tool that watches a long run: what its table says of samples, and a short soak by the real command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools" / "dev"))
import soak

# Of every half minute for ten minutes: a process that grows by a MB a minute, a worker that stays, one that comes late.
SAMPLES = [
    {
        "minutes": place / 2,
        "iterations": 10 * place,
        "processes": {
            "process 0": {"pid": 1, "MB": 100 + place / 2, "files": 30},
            "worker 0.0": {"pid": 2, "MB": 50, "files": 20},
        }
        | ({"worker 0.1": {"pid": 3, "MB": 50, "files": 20}} if place > 7 else {}),
    }
    for place in range(21)
]


def test_rows_are_medians_after_the_warm_up():
    groups = soak.windows(SAMPLES, warm_up=2, length=3)
    assert [[sample["minutes"] for sample in group] for group in groups] == [
        [2, 2.5, 3, 3.5, 4, 4.5], [5, 5.5, 6, 6.5, 7, 7.5], [8, 8.5, 9, 9.5, 10],
    ]  # fmt: skip
    rates = {done: 8.0 if done < 100 else 4.0 for done in range(20, 220, 20)}
    rows = soak.table(groups, rates)
    assert [row["process 0, MB"] for row in rows] == [103.25, 106.25, 109]
    assert [row["images/s"] for row in rows] == [8, 4, 4]
    assert rows[-1]["worker 0.0, files"] == 20 and not any(name.startswith("worker 0.1") for name in rows[0])
    assert soak.spread([row["process 0, MB"] for row in rows]) == pytest.approx(100 * 2.875 / 106.125)
    assert soak.spread([0, 0]) == 0


def test_the_trend_is_that_of_the_line_through_the_values():
    # 1 MB a minute around 100 MB is 60 % an hour; what goes up and down alike has none.
    assert soak.trend([0, 1, 2], [99, 100, 101]) == pytest.approx(60)
    assert soak.trend([0, 1, 2, 3], [5, 4, 4, 5]) == pytest.approx(0)


def test_a_soak(tiny_options, tmp_path):
    folder = tmp_path / "soak"
    short = ["--minutes", "0.2", "--period", "1", "--warm-up", "0.02", "--window", "0.08", "--folder", str(folder)]
    command = [
        sys.executable,
        "tools/dev/soak.py",
        "--config-file",
        "configs/toy/rc2l_R18.yaml",
        *short,
        "--num-gpus",
        "2",
    ]
    result = subprocess.run(
        [*command, *tiny_options, "DATALOADER.NUM_WORKERS", "1", "SOLVER.CHECKPOINT_PERIOD", "100"],
        cwd=REPO, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [
        re.split(r" {2,}", line) for line in re.split(r"^--.*\n", result.stdout, flags=re.MULTILINE)[-1].splitlines()
    ]
    flat = {name: [float(cell) for cell in cells] for name, *cells in rows}
    for name in ("process 0, MB", "process 1, MB", "worker 0.0, MB", "worker 1.0, MB"):
        first, last, *_ = flat[name]
        assert first > 100 and last > 100
    assert flat["process 0, files"][0] > 10
    last = json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])
    assert last["iterations"] >= 20 and (folder / "run" / "last_checkpoint").exists()

    table = [*command[:2], "--table", *short]
    again = subprocess.run(table, cwd=REPO, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.splitlines() == result.stdout.splitlines()[3:]
    refused = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert refused.returncode == 2
    (folder / "samples.jsonl").unlink()
    nothing = subprocess.run(table, cwd=REPO, capture_output=True, text=True)
    assert nothing.stderr == f"soak.py: {folder} holds no samples.jsonl; name the --folder of a soak.\n"
    assert refused.stderr == f"soak.py: {folder} exists; delete it, or name another --folder.\n"


@pytest.mark.parametrize(
    "minutes, options, told",
    [
        ("20", ["DATASETS.TRAIN", "('nowhere',)"], "The run ended by itself with status 2; {}/log.txt says more."),
        ("10", [], "--minutes is 10, less than --warm-up and two times --window; give more of the one or less of the"),
        ("20", ["SOLVER.NOTHING", "1"], "SOLVER.NOTHING in the command line is not a config key;"),
    ],
)
def test_what_cannot_be_soaked_is_told_in_a_sentence(tiny_options, tmp_path, minutes, options, told):
    folder = tmp_path / "soak"
    result = subprocess.run(
        [sys.executable, "tools/dev/soak.py", "--config-file", "configs/toy/rc2l_R18.yaml", "--minutes", minutes,
         "--period", "1", "--folder", str(folder), *tiny_options, *options],
        cwd=REPO, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"soak.py: {told.format(folder)}")

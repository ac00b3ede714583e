"""tools/dev/soak.py: the statistics of its samples, its errors, and a short soak."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPO, call_command

sys.path.insert(0, str(REPO / "tools" / "dev"))
import soak

TOY = ("--config-file", "configs/toy/rc2l_R18.yaml")
# One sample per half minute for ten minutes: a rank that grows by a MB per minute, a worker, and one that starts late.
SAMPLES = [
    {
        "minutes": index / 2,
        "iterations": 10 * index,
        "processes": {"rank 0": {"MB": 100 + index / 2, "files": 30}, "worker 0.0": {"MB": 50, "files": 20}}
        | ({"worker 0.1": {"MB": 50, "files": 20}} if index > 7 else {}),
    }
    for index in range(21)
]


def test_rows_are_medians_after_the_warm_up_and_the_trend_is_the_slope_per_hour():
    rows = soak.medians(SAMPLES, {done: 8.0 if done < 100 else 4.0 for done in range(20, 220, 20)}, 2, 3)
    assert [*rows["minutes"]] == [4.5, 7.5, 10]
    assert [*rows["rank 0, MB"]] == [103.25, 106.25, 109]
    assert [*rows["images/s"]] == [8, 4, 4]
    assert rows["worker 0.0, files"].iloc[-1] == 20 and not any(name.startswith("worker 0.1") for name in rows)
    assert soak.spread(rows)["rank 0, MB"] == pytest.approx(100 * 2.875 / 106.125)
    assert soak.spread(0 * rows)["rank 0, MB"] == 0
    rows = pd.DataFrame({"minutes": [0, 1, 2, 3], "rises": [99, 100, 101, 102], "falls and rises": [5, 4, 4, 5]})
    trend = soak.trend(rows)
    assert trend["rises"] == pytest.approx(100 * 60 / 100.5) and trend["falls and rises"] == pytest.approx(0)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--minutes", "10"], "--minutes is 10; give at least --warm-up and two times --window."),
        (["--folder", "{}/used"], "{}/used exists; give another --folder."),
        (["--table", "--folder", "{}/used"], "{}/used holds no samples.jsonl; give the --folder of a soak."),
        (["SOLVER.NOTHING", "1"], "SOLVER.NOTHING in the command line is not a config key;"),
    ],
)
def test_errors_are_one_sentence(monkeypatch, tmp_path, options, message):
    (tmp_path / "used").mkdir()
    options = [option.format(tmp_path) for option in options]
    result = call_command(monkeypatch, "soak.py", soak.main, *TOY, *options)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"soak.py: {message.format(tmp_path)}")


def test_a_run_that_ends_by_itself_is_an_error(tmp_path):
    with pytest.raises(soak.InputError, match="The run ended by itself with status 3; see .*log.txt"):
        soak.soak([sys.executable, "-c", "exit(3)"], tmp_path, minutes=20, period=0.5)


@pytest.mark.slow
def test_a_soak(monkeypatch, tiny_options, tmp_path):
    folder = tmp_path / "soak"
    short = ["--minutes", "0.2", "--period", "1", "--warm-up", "0.02", "--window", "0.08", "--folder", str(folder)]
    options = [*tiny_options, "DATALOADER.NUM_WORKERS", "1", "SOLVER.CHECKPOINT_PERIOD", "100"]
    command = [sys.executable, "tools/dev/soak.py", *TOY, *short, "--num-gpus", "2", *options]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    table = re.split(r"^--.*\n", result.stdout, flags=re.MULTILINE)[-1]
    constant = {name: [float(x) for x in cells] for name, *cells in (re.split(r" {2,}", x) for x in table.splitlines())}
    for name in ("rank 0, MB", "rank 1, MB", "worker 0.0, MB", "worker 1.0, MB"):
        first, last, *_ = constant[name]
        assert first > 100 and last > 100
    assert constant["rank 0, files"][0] > 10
    last = json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])
    assert last["iterations"] >= 20 and (folder / "run" / "last_checkpoint").exists()
    again = call_command(monkeypatch, "soak.py", soak.main, "--table", *short)
    assert again.returncode == 0 and again.stdout.splitlines() == result.stdout.splitlines()[3:]

"""tools/compare_methods.py: a real matrix of tiny runs through the command line."""

import csv
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from comparison_cases import ENVIRONMENT, TOOL, compare, description, written
from conftest import REPO

from rc2l_d2.comparison import load_comparison, plan_runs
from rc2l_d2.host import HOST
from rc2l_d2.reporting.run_metrics import read_result


@pytest.fixture(scope="module")
def finished(toy_definition, tmp_path_factory):
    """(YAML file, output folder, what was printed) of a matrix that ran through the command line."""
    folder = tmp_path_factory.mktemp("comparison")
    file = written(folder, description(toy_definition))
    result = compare(file, "--output", folder / "out", "--jobs", "2", "--document", folder / "docs/results.md")
    assert result.returncode == 0, result.stdout + result.stderr
    return file, folder / "out", result


@pytest.fixture
def copied(finished, tmp_path):
    """As ``finished``, in a folder of the test's own."""
    file, out, _ = finished
    shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns("*.pth"))
    return Path(shutil.copy(file, tmp_path)), tmp_path / "out"


def table_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def scores(out: Path, method: str, seed: int) -> list[dict]:
    """The evaluations in a run's metrics.json, in order; the file is read here on its own."""
    lines = (out / "runs" / method / "1_4" / f"seed{seed}" / "metrics.json").read_text().splitlines()
    return sorted((e for e in map(json.loads, lines) if "sem_seg/mIoU" in e), key=lambda entry: entry["iteration"])


def step_times(out: Path, method: str, seed: int) -> list[float]:
    """What was logged of iterations after the tiny burn-in of 2, each line on 20 iterations."""
    lines = (out / "runs" / method / "1_4" / f"seed{seed}" / "metrics.json").read_text().splitlines()
    return [entry["time"] for entry in map(json.loads, lines) if "time" in entry and entry["iteration"] >= 2 + 20 - 1]


def test_the_table_is_what_metrics_json_says(finished):
    _, out, _ = finished
    rows = {row["method"]: row for row in table_of(out / "tiny.csv")}
    assert list(rows) == ["supervised", "rc2l"]
    table = (out / "tiny.md").read_text()
    for method, row in rows.items():
        runs = [scores(out, method, seed) for seed in (1, 2)]
        assert all(len(run) == 2 for run in runs), "two evaluations a run"
        assert row["draw"] == "1_4" and row["seeds"] == "2"
        for column, key in (("teacher", "sem_seg_teacher/mIoU"), ("student", "sem_seg/mIoU")):
            for name, values in (
                ("last", [run[-1][key] for run in runs]),
                ("best", [max(entry[key] for entry in run) for run in runs]),
            ):
                mean, spread = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
                assert float(row[f"{column}_{name}_mean"]) == pytest.approx(mean, abs=1e-9)
                assert float(row[f"{column}_{name}_std"]) == pytest.approx(spread, abs=1e-9)
                assert f"{mean:.2f} ± {spread:.2f}" in table
        classes = [key for key in runs[0][-1] if key.startswith("sem_seg_teacher/IoU-")]
        assert len(classes) == 8
        for key in classes:
            expected = (runs[0][-1][key] + runs[1][-1][key]) / 2
            assert float(row[f"teacher_last_IoU_{key.split('-')[1]}"]) == pytest.approx(expected, nan_ok=True)
        expected = sum(statistics.median(step_times(out, method, seed)) for seed in (1, 2)) / 2
        assert float(row["seconds_per_step"]) == pytest.approx(expected) and f"| {1000 * expected:.0f} " in table
    assert any(float(row["teacher_last_mean"]) > 0 for row in rows.values()), "all zero would prove nothing"


def test_targets_are_told_reached_and_missed_alike(finished):
    _, out, result = finished
    assert "REACHED: rc2l [1_4] ≥ supervised [1_4] + -100 mIoU" in result.stdout
    assert "MISSED: rc2l [1_4] ≥ supervised [1_4] + 100 mIoU" in result.stdout
    table = (out / "tiny.md").read_text()
    assert "**reached**" in table and "**missed**" in table


def test_every_number_comes_with_what_made_it(finished):
    file, out, _ = finished
    table = (out / "tiny.md").read_text()
    record = json.loads((out / "runs/rc2l/1_4/seed2/run.json").read_text())
    commit = record["attempts"][0]["commit"]
    known = subprocess.run(["git", "cat-file", "-t", commit.removesuffix("-dirty")], cwd=REPO, capture_output=True)
    assert known.stdout == b"commit\n" or commit == "unknown" and not (REPO / ".git").exists()
    for fact in (f"`python tools/compare_methods.py {file} --jobs 2`", commit, HOST, torch.__version__, "cores"):
        assert fact in table, fact
    assert record["settings"]["SEED"] == 2 and record["settings"]["DATASETS.TRAIN"] == ["tiny_labeled"]
    assert len(record["attempts"]) == 1


def test_pictures_and_document(finished):
    _, out, _ = finished
    document = out.parent / "docs/results.md"
    text = document.read_text()
    assert text.startswith("# Results\n") and "## Tiny" in text
    for name in ("tiny_curves.png", "tiny_bars.png"):
        assert cv2.imread(str(out / name)).shape[0] > 200
        assert f"(figures/{name})" in text and f"({name})" in (out / "tiny.md").read_text()
        assert (document.parent / "figures" / name).read_bytes() == (out / name).read_bytes()


def test_a_second_call_runs_nothing(copied):
    file, out = copied
    before = {path: path.read_bytes() for path in [*(out / "runs").rglob("metrics.json"), out / "tiny.csv"]}
    dry = compare(file, "--output", out, "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == ["done"] * 4
    result = compare(file, "--output", out)
    assert result.returncode == 0 and "4 runs: 4 done, 0 to do." in result.stdout, result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_complete_runs_leave_no_checkpoint(finished, copied):
    assert not list((finished[1] / "runs").rglob("*.pth")), "checkpoints of finished runs fill a disk"
    assert not list((finished[1] / "runs").rglob("report.html")), "a page on each run, which nobody asked for"
    file, out = copied
    # Killed between the end of a run and the cleaning.
    run = out / "runs/rc2l/1_4/seed2"
    for name in ("model_0000007.pth", "model_final.pth", "model_best.pth"):
        (run / name).touch()
    (run / "last_checkpoint").write_text("model_final.pth")
    compare(file, "--output", out, "--report-only")
    assert len(list(run.glob("*.pth"))) == 3, "a report changes nothing"
    for options, left in ((["--keep-weights"], ["model_final.pth"]), ([], [])):
        result = compare(file, "--output", out, *options)
        assert result.returncode == 0 and "4 done, 0 to do" in result.stdout, result.stderr
        assert [path.name for path in run.glob("*.pth")] == left


def test_report_only_reports_what_is_there(copied):
    file, out = copied
    (out / "runs/rc2l/1_4/seed2/metrics.json").write_text("")
    # Killed while it was evaluated for the first time, and resumed after that.
    interrupted = out / "runs/supervised/1_4/seed1/metrics.json"
    lines = [line for line in interrupted.read_text().splitlines() if json.loads(line)["iteration"] != 11]
    interrupted.write_text("\n".join(lines) + "\n")
    assert compare(file, "--output", out, "--report-only").returncode == 0
    report = (out / "tiny.md").read_text()
    assert "1 of 2" in report and "- Not finished: rc2l, 1_4, seed 2." in report and "**open**" in report
    assert "- supervised, 1_4, seed 1 was interrupted and has no evaluation after 12 iterations;" in report
    assert not (out / "runs/rc2l/1_4/seed2/metrics.json").read_text()


def test_a_changed_configuration_is_refused(copied, toy_definition):
    file, out = copied
    raw = description(toy_definition)
    raw["overrides"]["SOLVER.BASE_LR"] = 0.25
    written(file.parent, raw)
    # Nothing of it can be reported either.
    for option in ([], ["--report-only"]):
        result = compare(file, "--output", out, *option)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "SOLVER.BASE_LR was 0.0005, is now 0.25" in result.stderr and "another --output" in result.stderr


def test_a_report_leaves_out_what_is_not_the_comparisons(copied, toy_definition):
    file, out = copied
    # One row with another learning rate than its runs had; one run of the other row by somebody else.
    raw = description(toy_definition)
    raw["methods"]["rc2l"]["overrides"]["SOLVER.BASE_LR"] = 0.25
    written(file.parent, raw)
    (out / "runs/supervised/1_4/seed2/run.json").write_text('{"settings": {}}')
    result = compare(file, "--output", out, "--report-only")
    assert result.returncode == 0 and "OPEN: rc2l [1_4] ≥ supervised [1_4] + 100 mIoU" in result.stdout
    told = [line for line in (out / "tiny.md").read_text().splitlines() if line.startswith("- Left out: ")]
    assert [f"compare_methods.py: {line[2:]}" for line in told] == result.stderr.splitlines()
    assert [re.match(r"- Left out: ([^:]*): ", line)[1] for line in told] == [
        "rc2l, 1_4, seed 1", "supervised, 1_4, seed 2", "rc2l, 1_4, seed 2"
    ]  # fmt: skip
    assert "BASE_LR was 0.0005, is now 0.25" in told[0] and "seed2/run.json is none of this tool" in told[1]
    rows = {row["method"]: row for row in table_of(out / "tiny.csv")}
    assert (rows["rc2l"]["seeds"], rows["rc2l"]["teacher_last_mean"]) == ("0", "")
    expected = scores(out, "supervised", 1)[-1]["sem_seg_teacher/mIoU"]
    assert rows["supervised"]["seeds"] == "1" and float(rows["supervised"]["teacher_last_mean"]) == expected


def test_comparisons_with_one_folder_share_runs_and_keep_their_reports(copied, toy_definition, monkeypatch):
    file, out = copied
    before = {path: path.read_bytes() for path in out.glob("tiny*")}
    assert len(before) == 4
    # The same run, described in another order and under another label, and one that the first does not have.
    raw = description(toy_definition, output=str(out), targets=[], seeds=[2, 5])
    architecture = raw["methods"]["rc2l"]["overrides"]
    raw["overrides"] = {**architecture, **dict(reversed(raw["overrides"].items()))}
    raw["methods"] = {"rc2l": {"label": "ours"}, "ema": {"overrides": {"MODEL.SEMI_SUPERVISED.EMA_DECAY": 0.9}}}
    other = written(file.parent, raw, "parts.yaml")
    dry = compare(other, "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == ["done", "new", "new", "new"], dry.stderr
    assert compare(other, "--report-only").returncode == 0
    assert {row["method"]: row["seeds"] for row in table_of(out / "parts.csv")} == {"rc2l": "1", "ema": "0"}
    assert {path: path.read_bytes() for path in before} == before


def test_only_some_runs(copied):
    file, out = copied
    shutil.rmtree(out / "runs/supervised/1_4/seed2")
    result = compare(file, "--output", out, "--only", "rc2l")
    assert "2 runs: 2 done, 0 to do." in result.stdout and result.returncode == 0, result.stderr
    assert [row["seeds"] for row in table_of(out / "tiny.csv")] == ["1", "2"], "the report is on all that is there"


def test_a_changed_draw_of_the_same_name_is_refused(copied, toy_definition):
    file, out = copied
    definition = Path(toy_definition)
    text = definition.read_text()
    try:
        definition.write_text(text.replace("seed: 0", "seed: 1"))
        result = compare(file, "--output", out, "--report-only")
    finally:
        definition.write_text(text)
    assert result.returncode == 2 and "data of DATASETS.TRAIN.files was" in result.stderr


def test_a_failed_run_is_told_and_the_others_go_on(copied, toy_definition):
    file, out = copied
    raw = description(toy_definition)
    raw["methods"] = {"broken": {"overrides": {**raw["methods"]["rc2l"]["overrides"], "MODEL.WEIGHTS": "no.pth"}},
                      **raw["methods"]}  # fmt: skip
    raw["draws"]["1_4"]["methods"] = ["broken", "supervised"]
    raw["targets"] = [{"better": "broken", "than": "supervised", "by": 0, "draw": "1_4"}]
    shutil.rmtree(out / "runs/supervised/1_4/seed2")
    result = compare(written(file.parent, raw), "--output", out, "--jobs", "2")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()
    assert len(last) == 2 and all("The checkpoint no.pth does not exist" in line for line in last)
    assert "supervised, 1_4, seed 2: done in" in result.stdout
    assert "OPEN: broken [1_4] ≥ supervised [1_4] + 0 mIoU: broken [1_4] has 0 of 2 runs" in result.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the run's process in /proc")
def test_an_interrupted_matrix_goes_on(toy_definition, tmp_path, monkeypatch):
    raw = description(toy_definition, seeds=[1], targets=[])
    raw["overrides"].update({"SOLVER.MAX_ITER": 32, "SOLVER.CHECKPOINT_PERIOD": 10, "TEST.EVAL_PERIOD": 0})
    del raw["methods"]["rc2l"]
    file, out = written(tmp_path, raw), tmp_path / "out"
    run = out / "runs/supervised/1_4/seed1"

    def heed_ctrl_c() -> None:
        # A shell has what it starts in the background, such as these tests, ignore it, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def start() -> subprocess.Popen:
        return subprocess.Popen([*TOOL, str(file), "--output", str(out)], cwd=REPO, env=ENVIRONMENT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)  # fmt: skip

    def child_of(process: subprocess.Popen) -> int:
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(child)

    def ended(pid: int) -> bool:
        # A child of a killed parent stays a zombie where nobody is there to wait for it.
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "State:\tZ" in status.read_text()

    def wait_for(condition) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    # Killed outright, the tool leaves its run behind; a second call must not start beside it.
    tool = start()
    wait_for((run / "last_checkpoint").exists)
    left = child_of(tool)
    os.kill(left, signal.SIGSTOP)
    tool.kill()
    tool.communicate()
    second = compare(file, "--output", out)
    os.kill(left, signal.SIGKILL)
    assert second.returncode == 2 and "Another call is at work" in second.stderr
    wait_for(lambda: ended(left))

    # Ctrl-C takes the run along.
    tool = start()
    wait_for(lambda: (run / "output.log").read_text().count("Starting training from iteration") == 2)
    taken = child_of(tool)
    tool.send_signal(signal.SIGINT)
    printed, said = tool.communicate(timeout=60)
    assert tool.returncode == 130 and "interrupted" in said and "resumed" in printed
    assert ended(taken)

    monkeypatch.chdir(REPO)
    assert plan_runs(load_comparison(str(file)), out)[0].state() == "resume"
    result = compare(file, "--output", out)
    assert result.returncode == 0 and "supervised, 1_4, seed 1: resumed" in result.stdout, result.stderr
    starts = re.findall(r"Starting training from iteration (\d+)", (run / "output.log").read_text())
    assert len(starts) == 3 and int(starts[0]) == 0 < int(starts[1]) <= int(starts[2])
    assert len(json.loads((run / "run.json").read_text())["attempts"]) == 3
    assert read_result(run / "metrics.json", 32, 2).complete
    report = (out / "tiny.md").read_text()
    assert "| 1 (1 resumed) |" in report and "- Resumed after an interruption: supervised, 1_4, seed 1." in report


def test_a_checkout_plans_with_its_own_package(tmp_path):
    for folder in ("tools", "rc2l_d2"):
        (tmp_path / folder).mkdir()
    shutil.copy(REPO / "tools/compare_methods.py", tmp_path / "tools")
    (tmp_path / "rc2l_d2/__init__.py").write_text("raise SystemExit('of this checkout')")
    command = [sys.executable, tmp_path / "tools/compare_methods.py", "--help"]
    assert "of this checkout" in subprocess.run(command, cwd=REPO, capture_output=True, text=True).stderr


def test_a_run_leaves_the_cores_to_torch(tiny_options):
    code = """if True:
        import sys, cv2, train_net
        from rc2l_d2.host import default_argument_parser
        cv2.setNumThreads(2)
        train_net.setup(default_argument_parser().parse_args(sys.argv[1:]))
        print("threads of OpenCV:", cv2.getNumThreads())
    """
    command = [sys.executable, "-c", code, "--config-file", "configs/toy/rc2l_R18.yaml", *tiny_options]
    result = subprocess.run(command, cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True)
    assert "threads of OpenCV: 1\n" in result.stdout, result.stderr


def test_records_stand_in_for_runs(copied, toy_definition):
    file, out = copied
    records = out.parent / "records"
    before = table_of(out / "tiny.csv")
    assert compare(file, "--output", out, "--report-only", "--records", records).returncode == 0
    assert sorted(str(path.relative_to(records)) for path in records.rglob("*.json")) == [
        f"{method}/1_4/seed{seed}.json" for method in ("rc2l", "supervised") for seed in (1, 2)
    ]

    elsewhere = out.parent / "elsewhere"
    result = compare(file, "--output", elsewhere, "--records", records)
    assert result.returncode == 0 and "4 runs: 4 done, 0 to do." in result.stdout, result.stderr
    assert table_of(elsewhere / "tiny.csv") == before
    assert (elsewhere / "tiny.md").read_text() == (out / "tiny.md").read_text().replace(str(out), str(elsewhere))

    shutil.rmtree(elsewhere)
    changed = written(out.parent, description(toy_definition, seeds=[1]))
    changed.write_text(changed.read_text().replace("EMA_DECAY: 0.5", "EMA_DECAY: 0.25"))
    result = compare(changed, "--output", elsewhere, "--records", records, "--dry-run")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["new", "new"]
    assert (
        f"{records}/rc2l/1_4/seed1.json was made by another configuration (MODEL.SEMI_SUPERVISED.EMA_DECAY"
        in result.stderr
    )

    (records / "rc2l/1_4/seed1.json").write_text("{}")
    result = compare(file, "--output", elsewhere, "--records", records, "--dry-run")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "is no record of a run" in result.stderr

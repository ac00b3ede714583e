"""tools/compare_methods.py: a real matrix of tiny runs through the command line, and what is made of its numbers."""

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
import yaml
from conftest import REPO, TINY

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import HOST
from rc2l_d2.reporting import collect, load_comparison, markdown, plan_runs, write_section
from rc2l_d2.reporting.figures import draw_bars, draw_curves
from rc2l_d2.reporting.fingerprint import data_fingerprint
from rc2l_d2.reporting.plan import differences, write_record
from rc2l_d2.reporting.provenance import environment
from rc2l_d2.reporting.results import STUDENT, TEACHER, Cell, RunResult, mean_and_std, read_result

TOOL = [sys.executable, "tools/compare_methods.py"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def compare(*arguments, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TOOL, *map(str, arguments)], cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


def description(definition: str, **changes) -> dict:
    """A comparison of two methods on a quarter of the tiny set, two seeds."""
    overrides = dict(zip(TINY[::2], TINY[1::2], strict=True))
    overrides.update({
        "DATASETS.DEFINITIONS": [definition],
        "DATASETS.TEST": ["tiny_val"],
        "SOLVER.MAX_ITER": 16,
        "SOLVER.CHECKPOINT_PERIOD": 8,
        "TEST.EVAL_PERIOD": 8,
        "MODEL.RC2L.EMA_DECAY": 0.5,
    })  # fmt: skip
    return {
        "title": "Tiny",
        "config": "configs/toy/Base-toy.yaml",
        "overrides": overrides,
        "methods": {
            "supervised": {"overrides": {"MODEL.META_ARCHITECTURE": "RegionSegmentor"}},
            "rc2l": {"label": "RC²L", "overrides": {"MODEL.META_ARCHITECTURE": "RC2L"}},
        },
        "draws": {
            "1_4": {
                "label": "1/4",
                "overrides": {"DATASETS.TRAIN": ["tiny_labeled"], "DATASETS.UNLABELED": ["tiny_unlabeled"]},
            }
        },
        "seeds": [1, 2],
        "targets": [
            {"better": "rc2l", "than": "supervised", "by": -100, "draw": "1_4"},
            {"better": "rc2l", "than": "supervised", "by": 100, "draw": "1_4"},
        ],
        **changes,
    }


def written(folder: Path, raw: dict, name: str = "tiny.yaml") -> Path:
    # Not quoted by hand: 1_4 is a name here, though YAML 1.1 has it as the number 14.
    (folder / name).write_text(yaml.safe_dump(raw, sort_keys=False).replace("'1_4'", "1_4"))
    return folder / name


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


def scores(out: Path, method: str, seed: int) -> list[dict]:
    """The evaluations in a run's metrics.json, in order; the file is read here on its own."""
    lines = (out / "runs" / method / "1_4" / f"seed{seed}" / "metrics.json").read_text().splitlines()
    return sorted((e for e in map(json.loads, lines) if "sem_seg/mIoU" in e), key=lambda entry: entry["iteration"])


def test_the_table_is_what_metrics_json_says(finished):
    _, out, _ = finished
    with open(out / "table.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["supervised", "rc2l"]
    table = (out / "table.md").read_text()
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
        assert 0 < float(row["seconds_per_iteration"]) < 60
    assert any(float(row["teacher_last_mean"]) > 0 for row in rows.values()), "all zero would prove nothing"


def test_targets_are_told_reached_and_missed_alike(finished):
    _, out, result = finished
    assert "REACHED: rc2l [1_4] ≥ supervised [1_4] + -100 mIoU" in result.stdout
    assert "MISSED: rc2l [1_4] ≥ supervised [1_4] + 100 mIoU" in result.stdout
    table = (out / "table.md").read_text()
    assert "**reached**" in table and "**missed**" in table


def test_every_number_comes_with_what_made_it(finished):
    file, out, _ = finished
    table = (out / "table.md").read_text()
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
    for name in ("curves.png", "bars.png"):
        assert cv2.imread(str(out / name)).shape[0] > 200
        assert f"(figures/tiny_{name})" in text
        assert (document.parent / "figures" / f"tiny_{name}").read_bytes() == (out / name).read_bytes()


def test_a_second_call_runs_nothing(copied):
    file, out = copied
    before = {path: path.read_bytes() for path in [*(out / "runs").rglob("metrics.json"), out / "table.csv"]}
    dry = compare(file, "--output", out, "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == ["done"] * 4
    result = compare(file, "--output", out)
    assert result.returncode == 0 and "4 runs: 4 done, 0 to do." in result.stdout, result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_complete_runs_leave_no_checkpoint(finished, copied):
    assert not list((finished[1] / "runs").rglob("*.pth")), "checkpoints of finished runs fill a disk"
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
    lines = [line for line in interrupted.read_text().splitlines() if json.loads(line)["iteration"] != 7]
    interrupted.write_text("\n".join(lines) + "\n")
    assert compare(file, "--output", out, "--report-only").returncode == 0
    report = (out / "table.md").read_text()
    assert "1 of 2" in report and "- Not finished: rc2l, 1_4, seed 2." in report and "**open**" in report
    assert "- supervised, 1_4, seed 1 was interrupted and has no evaluation after 8 iterations;" in report
    assert not (out / "runs/rc2l/1_4/seed2/metrics.json").read_text()


def test_a_changed_configuration_is_refused(copied, toy_definition):
    file, out = copied
    raw = description(toy_definition)
    raw["overrides"]["SOLVER.BASE_LR"] = 0.25
    written(file.parent, raw)
    for option in ([], ["--report-only"]):
        result = compare(file, "--output", out, *option)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "SOLVER.BASE_LR was 0.0005, is now 0.25" in result.stderr and "another --output" in result.stderr


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
    raw["overrides"].update({"SOLVER.MAX_ITER": 12, "SOLVER.CHECKPOINT_PERIOD": 4, "TEST.EVAL_PERIOD": 0})
    del raw["methods"]["rc2l"]
    file, out = written(tmp_path, raw), tmp_path / "out"
    run = out / "runs/supervised/1_4/seed1"

    def start() -> subprocess.Popen:
        return subprocess.Popen([*TOOL, str(file), "--output", str(out)], cwd=REPO, env=ENVIRONMENT,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

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
    assert read_result(run / "metrics.json", 12).complete


# ------------------------------------------------------------------------------------------------ what is read


def test_reading_metrics_of_a_run_that_was_resumed_and_killed(tmp_path):
    file = tmp_path / "metrics.json"
    lines = [
        {"iteration": 19, "time": 5.0},
        {"iteration": 9, "sem_seg/mIoU": 10.0, "sem_seg_teacher/mIoU": 20.0, "sem_seg_teacher/IoU-a-b": 1.0},
        {"iteration": 19, "time": 1.0},
        {"iteration": 9, "sem_seg/mIoU": 11.0, "sem_seg_teacher/mIoU": 21.0, "sem_seg_teacher/IoU-a-b": math.nan},
        {"iteration": 39, "time": 3.0},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 19, "sem_s')
    result = read_result(file, 40)
    assert not result.complete and result.iterations == 40
    assert result.curve(TEACHER) == {10: 21.0} and result.seconds == 2.0
    # After the last iteration the host counts one further, and one more if nothing was left to train.
    for iteration in (40, 41):
        last = {"iteration": iteration, "sem_seg/mIoU": 9.0, "sem_seg_teacher/mIoU": 8.0, "sem_seg_teacher/IoU-a-b": 2}
        file.write_text("\n".join(map(json.dumps, [*lines, last])))
        result = read_result(file, 40)
        assert result.complete and result.last(STUDENT) == 9.0 and result.best(STUDENT) == 11.0
        assert result.class_ious(TEACHER) == {"a-b": 2}
    assert not read_result(tmp_path / "none.json", 40).complete


def test_mean_and_std():
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
    assert mean_and_std([4.0]) == (4.0, 0.0)
    assert all(map(math.isnan, mean_and_std([1.0, math.nan])))


# ------------------------------------------------------------------------------------------------ what is asked


def cell(method: str, draw: str, mious: list[float], ious: list[dict] | None = None, planned: int = 3) -> Cell:
    """Complete runs of 10 iterations with these teacher's mIoU and class IoUs, seed by seed."""
    runs = {}
    for seed, miou in enumerate(mious):
        last = {"sem_seg/mIoU": 0.0, "sem_seg_teacher/mIoU": miou}
        last |= {f"sem_seg_teacher/IoU-{name}": iou for name, iou in (ious[seed] if ious else {}).items()}
        runs[seed] = RunResult({10: last}, 10, 10, 0.1)
    return Cell(method, draw, runs, planned)


def judged(target: dict, tmp_path, *cells: Cell):
    raw = description("unused", targets=[target], seeds=[0, 1, 2])
    raw["draws"]["all"] = {"methods": ["supervised"]}
    found = load_comparison(str(written(tmp_path, raw))).targets
    assert len(found) == 1
    return found[0].judge({(cell.method, cell.draw): cell for cell in cells})


def test_better_by_points(tmp_path):
    few, ours = cell("supervised", "1_4", [40, 42, 44]), cell("rc2l", "1_4", [46, 45, 50])
    target = {"better": "rc2l", "than": "supervised", "by": 5.0, "draw": "1_4"}
    verdict = judged(target, tmp_path, few, ours)
    assert verdict.outcome == "reached"
    spread = statistics.stdev([6, 3, 6])
    assert verdict.figures == (
        f"47.00 against 42.00: +5.00 (seed by seed +6.00, +3.00, +6.00; standard deviation {spread:.2f})"
    )
    assert judged({**target, "by": 5.1}, tmp_path, few, ours).outcome == "missed"
    short = judged(target, tmp_path, few, cell("rc2l", "1_4", [99.0]))
    assert short.outcome == "open" and short.figures == "rc2l [1_4] has 1 of 3 runs"


def test_ratio_to_another_draw(tmp_path):
    ours, full = cell("rc2l", "1_4", [44, 45, 46]), cell("supervised", "all", [50, 50, 50])
    target = {"method": "rc2l", "draw": "1_4", "ratio": 0.9, "of": {"method": "supervised", "draw": "all"}}
    verdict = judged(target, tmp_path, ours, full)
    assert verdict.outcome == "reached" and "45.00 / 50.00 = 90.0 %" in verdict.figures
    assert judged({**target, "ratio": 0.91}, tmp_path, ours, full).outcome == "missed"


def test_kept_classes(tmp_path):
    target = {"kept_classes": {"method": "rc2l", "baseline": "supervised", "learned": 10, "lost": 5}}
    before = cell("supervised", "1_4", [1, 1, 1], [{"a": 12, "b": 9, "c": math.nan}] * 3)
    kept = judged(target, tmp_path, before, cell("rc2l", "1_4", [1, 1, 1], [{"a": a, "b": 0, "c": math.nan}
                                                                           for a in (4, 5, 6)]))  # fmt: skip
    assert kept.outcome == "reached"
    assert kept.figures == "0 of 1 learned classes lost; in single seeds: a (seed 0)"
    lost = judged(target, tmp_path, before, cell("rc2l", "1_4", [1, 1, 1], [{"a": 4, "b": 0, "c": math.nan}] * 3))
    assert lost.outcome == "missed" and lost.figures.startswith("1 of 1 learned classes lost: a 12.0 → 4.0")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"metods": {}}, ["unknown key 'metods'"]),
        ({"methods": {}}, ["'methods'"]),
        ({"methods": {"a/b": {}}}, ["'a/b'"]),
        ({"methods": {"a": {"overides": {}}}}, ["'methods.a.overides'"]),
        ({"methods": {"a": {"overrides": {"SEED": 1}}}}, ["SEED"]),
        ({"methods": {"a": {"overrides": {"MODEL": {"RC2L": 1}}}}}, ["in full"]),
        ({"draws": {"all": {"methods": ["nobody"]}}}, ["'draws.all.methods'", "'nobody'", "supervised, rc2l"]),
        ({"seeds": [1, 1]}, ["'seeds'"]),
        ({"seeds": [-1]}, ["'seeds'"]),
        ({"config": 3}, ["config"]),
        ({"targets": [{"better": "rc2l"}]}, ["item 1", "kept_classes"]),
        ({"targets": [{"better": "rc2l", "than": "nobody", "by": 1, "draw": "1_4"}]}, ["'nobody'"]),
        ({"targets": [{"better": "rc2l", "than": "supervised", "by": 1, "draw": "none"}]}, ["'none'"]),
        ({"targets": [{"better": "rc2l", "than": "supervised", "by": 1}]}, ["draw"]),
        (
            {"targets": [{"kept_classes": {"method": "x", "baseline": "y", "learned": 1, "lost": 1}}]},
            ["'x'", "together"],
        ),
    ],
)
def test_mistakes_in_the_file_are_told_in_one_sentence(change, fragments, tmp_path):
    with pytest.raises(InputError) as error:
        load_comparison(str(written(tmp_path, description("unused", **change))))
    message = str(error.value)
    assert "tiny.yaml" in message and "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_mistakes_in_a_configuration_name_the_run(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    raw = description(toy_definition)
    raw["methods"]["rc2l"]["overrides"]["MODEL.RC2L.EMA_DEKAY"] = 0.9
    comparison = load_comparison(str(written(tmp_path, raw)))
    with pytest.raises(InputError, match="The run 'rc2l, 1_4, seed 1': MODEL.RC2L.EMA_DEKAY .*EMA_DECAY"):
        plan_runs(comparison, tmp_path)
    missing = compare(tmp_path / "none.yaml")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "none.yaml" in missing.stderr


def test_seeds_fill_the_draws_name_and_pass_through_the_command_line(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    raw = description(toy_definition)
    raw["draws"]["1_4"]["overrides"] = {"DATASETS.TRAIN": ["tiny_labeled_{seed}"], "SOLVER.BASE_LR": "5e-4"}
    plan = plan_runs(load_comparison(str(written(tmp_path, raw))), tmp_path)
    assert [planned.run.seed for planned in plan] == [1, 1, 2, 2]
    assert plan[2].settings["DATASETS.TRAIN"] == ["tiny_labeled_2"]
    assert plan[2].settings["SOLVER.BASE_LR"] == 5e-4 and plan[2].settings["SEED"] == 2
    assert plan[2].folder == tmp_path / "runs/supervised/1_4/seed2"


@pytest.mark.parametrize("file", sorted((REPO / "configs/comparison").glob("*.yaml")), ids=lambda file: file.stem)
def test_comparisons_that_come_with_the_project_can_be_planned(file, monkeypatch):
    monkeypatch.chdir(REPO)
    comparison = load_comparison(str(file))
    plan = plan_runs(comparison, Path("output"))
    assert len(plan) == len(comparison.cells()) * len(comparison.seeds) and len(comparison.seeds) >= 3
    assert len({json.dumps(planned.settings) for planned in plan}) == len(plan), "two runs are the same"


def test_data_is_known_by_what_is_in_it(toy_definition, tmp_path):
    shutil.copytree(Path(toy_definition).parent / "data", tmp_path / "data")
    raw = yaml.safe_load(Path(toy_definition).read_text())

    def known(name: str, stream: str = "TRAIN", **changes) -> dict:
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**raw, "name": name, **changes}, sort_keys=False))
        options = ["DATASETS.DEFINITIONS", f"('{file}',)", "DATASETS.LABELED_LIST", str(labeled)]
        names = [word for key in ("TRAIN", "UNLABELED") for word in (f"DATASETS.{key}", f"('{name}_train',)")]
        return data_fingerprint(load_config("configs/toy/rc2l_R18.yaml", [*options, *names]), stream)

    ids = (tmp_path / "data/ImageSets/Segmentation/train.txt").read_text().split()
    labeled = tmp_path / "labeled.txt"
    labeled.write_text("\n".join(ids[:3]))
    first = known("first")
    assert first["images"] == 3 and first["classes"] == [raw["classes"]] and json.loads(json.dumps(first)) == first
    assert known("again") == first, "the name and the file of the description do not matter"
    mapped = known("mapped", label_map={**{value: value for value in range(len(raw["classes"]))}, "other": "ignore"})
    assert {key for key in first if first[key] != mapped[key]} == {"files"}
    assert known("ignoring", ignore_value=254)["ignore_value"] == [254]

    def changed() -> set[str]:
        now = {stream: known("first", stream) for stream in before}
        return {f"{stream}.{key}" for stream in now for key in now[stream] if now[stream][key] != before[stream][key]}

    before = {stream: known("first", stream) for stream in ("TRAIN", "UNLABELED")}
    for folder, differing in (("Segmentation", {"TRAIN.files"}), ("JPEGImages", {"TRAIN.files", "UNLABELED.files"})):
        (file,) = (tmp_path / "data").glob(f"{folder}*/{ids[0]}.*")
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert changed() == differing
        file.write_bytes(content)
    assert not changed()
    labeled.write_text("\n".join([*ids[:2], ids[3] + " "]))
    assert changed() == {"TRAIN.files"}


def test_missing_data_is_told_in_one_sentence(toy_definition, tmp_path):
    raw = yaml.safe_load(Path(toy_definition).read_text())
    definition = tmp_path / "absent.yaml"
    definition.write_text(yaml.safe_dump({**raw, "name": "absent"}, sort_keys=False))
    changes = description(str(definition))
    changes["draws"]["1_4"]["overrides"] = {"DATASETS.TRAIN": ["absent_labeled"]}
    result = compare(written(tmp_path, changes), "--output", tmp_path / "out", "--dry-run")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "The run 'supervised, 1_4, seed 1':" in result.stderr and f"{tmp_path}/data" in result.stderr


def test_what_changes_no_result_is_not_compared_and_the_device_is():
    stored = {"MODEL.DEVICE": "cuda", "DATALOADER.NUM_WORKERS": 4, "SOLVER.CHECKPOINT_PERIOD": 8, "VERSION": 2}
    assert differences(stored, {"MODEL.DEVICE": "cuda"}) == []
    assert differences(stored, {"MODEL.DEVICE": "cpu"}) == ["MODEL.DEVICE was cuda, is now cpu"]


def test_runs_of_several_commits_are_told_apart(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    comparison = load_comparison(str(written(tmp_path, description(toy_definition))))
    plan = plan_runs(comparison, tmp_path)
    made_with = {**environment(REPO), "jobs": 1, "threads": 1}

    def commits(*starts: list[str]) -> str:
        for planned, of_run in zip(plan, starts, strict=True):
            planned.folder.mkdir(parents=True, exist_ok=True)
            write_record(planned, {**made_with, "commit": "thrown-away"}, resume=False)
            for place, commit in enumerate(of_run):
                write_record(planned, {**made_with, "commit": commit}, resume=place > 0)
            line = {"iteration": 16, "sem_seg/mIoU": 1.0, "sem_seg_teacher/mIoU": 1.0}
            (planned.folder / "metrics.json").write_text(json.dumps(line))
        (row,) = re.findall(r"\| commit +\| (.*?) +\|", markdown(collect(comparison, plan), plan, "", ""))
        return row

    assert commits(["a1"], ["a1"], ["a1", "a1"], ["a1"]) == "a1"
    assert commits(*[["a1-dirty"]] * 4) == "a1-dirty (a commit and changes to it)"
    assert commits(["a1"], ["a1", "b2-dirty"], ["a1"], ["a1"]) == (
        "a1, resumed with b2-dirty (a commit and changes to it): rc2l, 1_4, seed 1; a1: all others"
    )


def test_a_checkout_plans_with_its_own_package(tmp_path):
    for folder in ("tools", "rc2l_d2"):
        (tmp_path / folder).mkdir()
    shutil.copy(REPO / "tools/compare_methods.py", tmp_path / "tools")
    (tmp_path / "rc2l_d2/__init__.py").write_text("raise SystemExit('of this checkout')")
    command = [sys.executable, tmp_path / "tools/compare_methods.py", "--help"]
    assert "of this checkout" in subprocess.run(command, cwd=REPO, capture_output=True, text=True).stderr


def test_a_section_is_rewritten_and_others_are_left(tmp_path):
    document = tmp_path / "docs/results.md"
    write_section(document, "a", "First", "one\n", [])
    write_section(document, "b", "Second", "two", [])
    before = document.read_text()
    write_section(document, "a", "First", "three", [])
    after = document.read_text()
    assert after == before.replace("one", "three") and after.index("First") < after.index("Second")
    document.write_text(after.replace("<!-- end of a -->", ""))
    with pytest.raises(InputError, match="markers"):
        write_section(document, "a", "First", "four", [])


def test_pictures_of_many_methods_and_of_nothing_yet(tmp_path):
    raw = description("unused", methods={f"m{index}": {} for index in range(18)}, targets=[])
    comparison = load_comparison(str(written(tmp_path, raw)))
    for runs in (0, 2):
        cells = {(m, d): cell(m, d, [50.0 + len(m), 51.0][:runs]) for m, d in comparison.cells()}
        for draw in (draw_curves, draw_bars):
            draw(comparison, cells, tmp_path / "picture.png")
            assert cv2.imread(str(tmp_path / "picture.png")).shape[1] > 400

"""Tables, records and figures of finished runs, against numbers computed here."""

import math
import shutil
import statistics

import cv2
import pandas as pd
import pytest
from comparison_cases import caller, description, finish, written
from conftest import REPO

from rc2l_d2.comparison import Comparison, load_comparison
from rc2l_d2.comparison.report import collect, draw_bars, draw_curves, markdown, paired_differences
from rc2l_d2.reporting.run_folder import collect_scalars, step_seconds

MIOU = {"supervised": {1: 40.0, 2: 43.5}, "rc2l": {1: 46.25, 2: 45.0}}


@pytest.fixture
def finished(toy_definition, tmp_path, monkeypatch):
    """YAML file and output folder of a comparison with four finished runs."""
    monkeypatch.chdir(REPO)
    file = written(tmp_path, description(toy_definition))
    for run in load_comparison(file, tmp_path / "out").runs:
        miou = MIOU[run.method][run.seed]
        finish(run, miou, miou - 2, {"disc": miou + 10, "ring": math.nan})
    return file, tmp_path / "out"


def rows(table: str) -> dict[tuple[str, str], list[str]]:
    """Markdown rows by their first two cells; of equal ones the first."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) > 2:
            found.setdefault((cells[0], cells[1]), cells[2:])
    return found


def test_tables_have_the_numbers_of_metrics_json(finished, monkeypatch):
    file, out = finished
    result = caller(monkeypatch)(file, "--output", out, "--report-only")
    assert result.returncode == 0 and str(out / "tiny.md") in result.stdout, result.stderr
    report = (out / "tiny.md").read_text()
    for method, label in (("supervised", "supervised"), ("rc2l", "RC²L")):
        values = list(MIOU[method].values())
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        assert rows(report)["1/4", label] == [
            "2", f"{mean:.2f} ± {spread:.2f}", f"{mean + 1:.2f} ± {spread:.2f}",
            *[f"{mean - 2:.2f} ± {spread:.2f}"] * 2, ", ".join(f"{value:.2f}" for value in values), "–",
        ]  # fmt: skip
    differences, classes = report.split("**Difference to supervised**")[1].split("**IoU of each class**")
    # 6.25 and 1.5: half their distance is the standard error.
    assert rows(differences)["1/4", "RC²L"] == ["+3.88", f"{4.75 / 2:.2f}", "2", "+6.25, +1.50"]
    assert rows(classes)["split", "method"] == ["disc", "ring"] and rows(classes)["1/4", "RC²L"] == ["55.6", "–"]
    assert "- commit: abc" in report and "not finished" not in report
    table = pd.read_csv(out / "tiny.csv")
    assert len(table) == 4 and table["teacher, last"].tolist() == [40.0, 46.25, 43.5, 45.0]
    for name in ("tiny_curves.png", "tiny_bars.png", "tiny_splits.png"):
        assert cv2.imread(str(out / name)).shape[0] > 200 and f"({name})" in report


def test_unfinished_runs_are_listed_and_only_pairs_are_compared(finished):
    file, out = finished
    shutil.rmtree(out / "runs/supervised/1_4/seed2")
    (out / "runs/rc2l/1_4/seed1/metrics.json").write_text("")
    comparison = load_comparison(file, out)
    scores, _, lines = collect(comparison)
    report = markdown(comparison, scores, lines)
    assert "- not finished: rc2l, 1_4, seed 1; supervised, 1_4, seed 2" in report
    assert rows(report)["1/4", "RC²L"][:2] == ["1", "45.00"] and not len(paired_differences(scores, "supervised"))


def test_results_of_another_configuration_are_refused_in_one_sentence(finished, toy_definition, monkeypatch):
    file, out = finished
    compare, records = caller(monkeypatch), out.parent / "records"
    assert compare(file, "--output", out, "--report-only", "--records", records).returncode == 0
    raw = description(toy_definition)
    raw["overrides"]["SOLVER.BASE_LR"] = 0.25
    written(file.parent, raw)
    for source, output in ((out / "runs", out), (records, out.parent / "elsewhere")):
        result = compare(file, "--output", output, "--report-only", "--records", records)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and str(source) in result.stderr
        assert "SOLVER.BASE_LR was 0.0005, is now 0.25" in result.stderr
    written(file.parent, description(toy_definition))
    damaged = [
        (out / "runs/supervised/1_4/seed2/config.yaml", "a: [", out),
        (records / "rc2l/1_4/seed1.json", "{}", file),
    ]
    for path, text, output in damaged:
        path.write_text(text)
        result = compare(file, "--output", output, "--report-only", "--records", records)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and path.name in result.stderr


def test_records_make_the_same_tables_without_the_runs(finished, monkeypatch):
    file, out = finished
    compare, records, elsewhere = caller(monkeypatch), out.parent / "records", out.parent / "elsewhere"
    assert compare(file, "--output", out, "--report-only", "--records", records).returncode == 0
    texts = [path.read_text() for path in records.rglob("seed*.json")]
    assert len(texts) == 4 and not any(str(out) in text for text in texts), "paths of this machine"
    dry = compare(file, "--output", elsewhere, "--records", records, "--dry-run")
    assert dry.returncode == 0 and not dry.stdout, "recorded runs count as finished"
    assert compare(file, "--output", elsewhere, "--records", records, "--report-only").returncode == 0
    assert (elsewhere / "tiny.csv").read_text() == (out / "tiny.csv").read_text()


def test_figures_of_many_methods(tmp_path):
    methods = {f"m{index}": f"method {index}" for index in range(18)}
    splits = {"1_4": "1/4", "1_2": "1/2", "all": "all"}  # without runs of 1/2
    comparison = Comparison("many", "Many", tmp_path, methods, splits, "m0", ())
    cells = [{"split": split, "method": method, "seed": seed, "iteration": iteration, "mIoU": 50.0 + seed}
             for split in comparison.splits for method in methods for seed in (1, 2) for iteration in (3, 6)
             if split == "1_4" or split == "all" and method == "m0"]  # fmt: skip
    draw_curves(comparison, pd.DataFrame(cells), tmp_path / "curves.png")
    draw_bars(comparison, pd.DataFrame(cells).rename(columns={"mIoU": "teacher, last"}), tmp_path / "bars.png")
    widths = [cv2.imread(str(tmp_path / name)).shape[1] for name in ("curves.png", "bars.png")]
    assert widths == [130 * (2 * 4.4 + 2.2)] * 2, "a panel for each split with runs"


def test_the_time_of_a_step_is_the_median_of_what_was_logged_after_burn_in():
    # A line every 20 iterations, on the 20 before it; a slow start, a slow evaluation, and one line without a time.
    times = {19: 90.0, 39: 80.0, 59: 1.0, 79: 70.0, 99: 2.0, 119: 4.0}
    lines = [{"iteration": iteration, "time": time} for iteration, time in times.items()]
    scalars = collect_scalars([*lines, {"iteration": 129, "lr": 0.0}], 200)
    assert step_seconds(scalars, 40) == 3.0  # of 1, 70, 2 and 4
    assert step_seconds(scalars, 41) == 4.0, "the line at 59 has an iteration of the burn-in"
    assert step_seconds(scalars, 80) == 3.0 and step_seconds(scalars, 101) is None

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
from rc2l_d2.comparison.report import (
    LAST,
    collect,
    draw_bars,
    draw_curves,
    draw_splits,
    markdown,
    paired_differences,
    score_table,
)
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


def test_differences_are_those_of_the_same_split_and_seed():
    values = {("a", "base"): (10.0, 20.0), ("a", "ours"): (13.0, 24.0)}
    values |= {("b", "base"): (50.0, 60.0), ("b", "ours"): (51.0, 61.0)}
    rows = [
        {"split": split, "method": method, "seed": seed, LAST: value}
        for (split, method), of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    found = paired_differences(pd.DataFrame(rows), "base")
    assert found.loc[("a", "ours"), ["mean", "standard error", "seeds"]].tolist() == [3.5, 0.5, 2]
    assert found.loc[("b", "ours"), ["mean", "standard error", "seeds"]].tolist() == [1.0, 0.0, 2]


def test_columns_are_the_last_and_the_best_values_and_the_time(finished, monkeypatch):
    file, out = finished
    run = load_comparison(file, out).runs[0]
    text = (run.folder / "metrics.json").read_text().replace('"sem_seg/mIoU": 38.0', '"sem_seg/mIoU": 47.0', 1)
    (run.folder / "metrics.json").write_text(text)
    monkeypatch.setattr("rc2l_d2.comparison.report.step_seconds", lambda scalars, burn_in: 0.25)
    scores, curves, _ = collect(load_comparison(file, out))
    first = scores.iloc[0]
    assert (first["student, last"], first["student, best"]) == (38.0, 47.0)
    assert (first["teacher, last"], first["teacher, best"]) == (40.0, 41.0)
    assert score_table(scores)["ms per step"].tolist() == ["250", "250"]
    own = curves[(curves["method"] == "supervised") & (curves["seed"] == 1)]
    assert dict(zip(own["iteration"], own["mIoU"], strict=True)) == {3: 41.0, 6: 40.0}


def test_figures_have_means_and_deviations(finished, monkeypatch):
    file, out = finished
    comparison, figures = load_comparison(file, out), []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *args, **options: figures.append(self))
    scores, curves, _ = collect(comparison)
    draw_curves(comparison, curves, out / "a.png")
    draw_bars(comparison, scores, out / "b.png")
    draw_splits(comparison, scores, out / "c.png")
    means, spread = {"supervised": 41.75, "RC²L": 45.625}, statistics.stdev([46.25, 45.0])
    lines = {line.get_label(): line.get_ydata().tolist() for line in figures[0].axes[0].get_lines()}
    assert lines == {label: [mean + 1, mean] for label, mean in means.items()}
    band = figures[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]  # methods in the alphabet's order
    assert (band.min(), band.max()) == pytest.approx((45.625 - spread, 46.625 + spread))
    assert [bar.get_width() for bar in figures[1].axes[0].patches] == [45.625, 41.75]
    assert {line.get_label(): line.get_ydata().tolist() for line in figures[2].axes[0].get_lines()[::2]} == {
        label: [mean] for label, mean in means.items()
    }

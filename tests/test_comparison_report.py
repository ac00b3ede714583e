"""What rc2l_d2.reporting makes of the numbers of runs: reading, targets, tables, sections and pictures."""

import json
import math
import re
import statistics

import cv2
import pytest
from comparison_cases import cell, description, written
from conftest import REPO

from rc2l_d2.comparison import collect, load_comparison, markdown, plan_runs, write_section
from rc2l_d2.comparison.figures import draw_bars, draw_curves
from rc2l_d2.comparison.runs import write_record
from rc2l_d2.errors import InputError
from rc2l_d2.reporting.provenance import environment
from rc2l_d2.reporting.run_metrics import STUDENT, TEACHER, Cell, mean_and_std, read_result


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
    result = read_result(file, 40, 0)
    assert not result.complete and result.iterations == 40
    assert result.curve(TEACHER) == {10: 21.0} and result.seconds == 2.0
    # After the last iteration the host counts one further, and one more if nothing was left to train.
    for iteration in (40, 41):
        last = {"iteration": iteration, "sem_seg/mIoU": 9.0, "sem_seg_teacher/mIoU": 8.0, "sem_seg_teacher/IoU-a-b": 2}
        file.write_text("\n".join(map(json.dumps, [*lines, last])))
        result = read_result(file, 40, 0)
        assert result.complete and result.last(STUDENT) == 9.0 and result.best(STUDENT) == 11.0
        assert result.class_ious(TEACHER) == {"a-b": 2}
    assert not read_result(tmp_path / "none.json", 40, 0).complete


def test_the_time_of_a_step_is_the_median_of_what_was_logged_after_burn_in(tmp_path):
    file = tmp_path / "metrics.json"
    # A line every 20 iterations, on the 20 before it; a slow start, a slow evaluation, and one line without a time.
    times = {19: 90.0, 39: 80.0, 59: 1.0, 79: 70.0, 99: 2.0, 119: 4.0}
    lines = [{"iteration": iteration, "time": time} for iteration, time in times.items()]
    file.write_text("\n".join(map(json.dumps, [*lines, {"iteration": 129, "lr": 0.0}])))
    assert read_result(file, 200, 40).seconds == 3.0  # of 1, 70, 2 and 4
    assert read_result(file, 200, 41).seconds == 4.0, "the line at 59 has an iteration of the burn-in"
    assert read_result(file, 200, 60).seconds == 4.0 and read_result(file, 200, 80).seconds == 3.0
    assert read_result(file, 200, 101).seconds is None


def test_mean_and_std():
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
    assert mean_and_std([4.0]) == (4.0, 0.0)
    assert all(map(math.isnan, mean_and_std([1.0, math.nan])))


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
        f"47.00 against 42.00: +5.00, 111.9 % (seed by seed +6.00, +3.00, +6.00; standard deviation {spread:.2f})"
    )
    assert judged({**target, "by": 5.1}, tmp_path, few, ours).outcome == "missed"
    short = judged(target, tmp_path, few, cell("rc2l", "1_4", [99.0]))
    assert short.outcome == "open" and short.figures == "rc2l [1_4] has 1 of 3 runs"


def test_ratio_to_another_draw(tmp_path):
    ours, full = cell("rc2l", "1_4", [44, 45, 46]), cell("supervised", "all", [50, 50, 50])
    target = {"method": "rc2l", "draw": "1_4", "ratio": 0.9, "of": {"method": "supervised", "draw": "all"}}
    verdict = judged(target, tmp_path, ours, full)
    assert verdict.outcome == "reached" and verdict.figures.startswith("45.00 against 50.00: -5.00, 90.0 % (")
    assert verdict.target == "rc2l [1_4] ≥ 90 % of supervised [all]"
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
            line = {"iteration": 24, "sem_seg/mIoU": 1.0, "sem_seg_teacher/mIoU": 1.0}
            (planned.folder / "metrics.json").write_text(json.dumps(line))
        report = markdown(collect(comparison, plan), plan, "", "")
        resumed = [str(p.run) for p, of_run in zip(plan, starts, strict=True) if len(of_run) > 1]
        assert re.findall(r"- Resumed after an interruption: (.*?)\.", report) == ["; ".join(resumed)] * bool(resumed)
        (row,) = re.findall(r"\| commit +\| (.*?) +\|", report)
        return row

    assert commits(["a1"], ["a1"], ["a1", "a1"], ["a1"]) == "a1"
    assert commits(*[["a1-dirty"]] * 4) == "a1-dirty (a commit and changes to it)"
    assert commits(["a1"], ["a1", "b2-dirty"], ["a1"], ["a1"]) == (
        "a1, resumed with b2-dirty (a commit and changes to it): rc2l, 1_4, seed 1; a1: all others"
    )


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

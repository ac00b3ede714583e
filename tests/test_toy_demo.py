"""tools/toy_demo.py with a tiny model: the summary and the images come from the run."""

import json
import re

import cv2
import pytest
from conftest import TINY, call_command, load_script, start_script


@pytest.mark.slow
def test_the_demo_writes_a_true_summary_and_overlays(tmp_path):
    out = tmp_path / "demo"
    schedule = ["SOLVER.MAX_ITER", "40", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "20", "TEST.EVAL_PERIOD", "20"]
    schedule += ["TEST.REPORT", "True"]
    result = start_script("tools/toy_demo.py", "--output", out, *TINY, *schedule)
    assert result.returncode == 0, result.stderr
    assert str(out / "summary.json") in result.stdout and str(out / "overlays.png") in result.stdout
    # Without a terminal: a line every 20 iterations, without control characters.
    lines = [line for line in result.stdout.splitlines() if "total_loss" in line]
    assert [re.search(r"iter: (\d+)", line)[1] for line in lines] == ["19", "39"]
    assert "\x1b" not in "".join(lines) and not any(mark in result.stdout + result.stderr for mark in ("\r", "40/40"))
    assert f"Report:   {out / 'report.html'}\n" in result.stdout

    summary = json.loads((out / "summary.json").read_text())
    evaluated = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    after_burn_in, last = [entry for entry in evaluated if "sem_seg/mIoU" in entry]
    assert summary["iterations"] == 40 and summary["seconds"] > 0
    assert summary["mIoU_student_after_burn_in"] == after_burn_in["sem_seg/mIoU"]
    assert summary["mIoU_student"] == last["sem_seg/mIoU"]
    assert summary["mIoU_teacher"] == last["sem_seg_teacher/mIoU"]
    assert f"value='{summary['mIoU_teacher']}'" in (out / "report.html").read_text()
    ious = summary["IoU_teacher"]
    assert len(ious) == 8 and abs(sum(ious.values()) / 8 - summary["mIoU_teacher"]) < 1e-9

    overlays = cv2.imread(str(out / "overlays.png"))
    assert overlays.shape[0] > 6 * 200 and overlays.shape[1] > 3 * 200


def test_a_burn_in_that_ends_between_evaluations_gives_one_sentence(monkeypatch, tmp_path):
    main = load_script("tools/toy_demo.py").main
    result = call_command(monkeypatch, "toy_demo.py", main, "--output", tmp_path, "TEST.EVAL_PERIOD", "7")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("toy_demo.py: The demo compares") and result.stderr.count("\n") == 1

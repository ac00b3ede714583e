"""`make demo`'s script, end to end with a tiny model: summary and picture are really made of what the run gave."""

import json
import os
import re
import subprocess
import sys

import cv2
from conftest import REPO, TINY


def test_the_demo_writes_a_true_summary_and_a_picture(tmp_path):
    out = tmp_path / "demo"
    schedule = ["SOLVER.MAX_ITER", "40", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "20", "TEST.EVAL_PERIOD", "20"]
    schedule += ["TEST.REPORT", "True"]
    result = subprocess.run(
        [sys.executable, "tools/toy_demo.py", "--output", str(out), *TINY, *schedule],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert str(out / "summary.json") in result.stdout and str(out / "overlays.png") in result.stdout
    # Where nobody watches: a line now and then, and no control character in it.
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

    picture = cv2.imread(str(out / "overlays.png"))
    assert picture.shape[0] > 6 * 200 and picture.shape[1] > 3 * 200

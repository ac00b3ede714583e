"""tools/toy_demo.py with a tiny model: the numbers and the images come from its two runs."""

import json
import re

import cv2
import pytest
from conftest import TINY, start_script


@pytest.mark.slow
def test_the_demo_writes_a_true_summary_and_overlays(tmp_path):
    out = tmp_path / "demo"
    schedule = ["SOLVER.MAX_ITER", "40", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "20", "TEST.REPORT", "True"]
    for key in ("OUTPUT_DIR", "DATASETS.TEST"):
        refused = start_script("tools/toy_demo.py", "--output", out, key, "a")
        assert refused.returncode == 2 and f"{key} cannot be given" in refused.stderr and not out.exists()
    result = start_script("tools/toy_demo.py", "--output", out, *TINY, *schedule)
    assert result.returncode == 0, result.stderr
    assert str(out / "summary.json") in result.stdout and str(out / "overlays.png") in result.stdout
    # Without a terminal: a line every 20 iterations of RC2L, without control characters.
    lines = [line for line in result.stdout.splitlines() if "total_loss" in line]
    assert [re.search(r"iter: (\d+)", line)[1] for line in lines] == ["19", "39"]
    assert "\x1b" not in "".join(lines) and not any(mark in result.stdout + result.stderr for mark in ("\r", "40/40"))
    assert f"Report:   {out / 'report.html'}\n" in result.stdout

    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 40 and summary["seconds"] > 0
    for name, folder in (("labels_alone", out / "labels_only"), ("RC2L", out)):
        entries = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        assert any("loss_smc" in entry for entry in entries) == (name == "RC2L")
        miou, ious = summary[f"mIoU_{name}"], summary[f"IoU_{name}"]
        assert miou == entries[-1]["sem_seg_teacher/mIoU"] and f"{miou:.1f}\n" in result.stdout
        assert len(ious) == 6 and abs(sum(ious.values()) / 6 - miou) < 1e-9
    assert f"value='{summary['mIoU_RC2L']}'" in (out / "report.html").read_text()

    overlays = cv2.imread(str(out / "overlays.png"))
    assert overlays.shape[0] > 6 * 200 and overlays.shape[1] > 4 * 200

"""Two CPU processes train one model."""

import os
import subprocess
import sys
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent


def test_both_ranks_end_with_the_same_student_and_teacher(tiny_options, tmp_path):
    result = subprocess.run(
        [sys.executable, "tests/two_ranks.py", str(tmp_path), *tiny_options, "SOLVER.IMS_PER_BATCH", "4",
         "SOLVER.IMS_PER_BATCH_UNLABELED", "4"],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert one["updates"] == other["updates"] == 6
    assert torch.equal(one["class_confidence"], other["class_confidence"])
    assert not torch.equal(one["class_confidence"], torch.full((8,), 0.7)), "the teacher was never asked"
    for part in ("student", "model"):
        assert len(one[part]) > 100 and any("running_mean" in name for name in one[part])
        for name in one[part]:
            assert torch.equal(one[part][name], other[part][name]), f"{part} {name}"

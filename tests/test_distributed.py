"""Two CPU processes train one model."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.engine import SemiSupervisedTrainer
from rc2l_d2.engine.train_loop import LOG_PERIOD
from rc2l_d2.host import comm, get_cfg, launch

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
        # Running statistics are each process's own until the next broadcast; parameters must be equal to the bit.
        names = [name for name in one[part] if "running_" not in name]
        assert len(names) > 100
        for name in names:
            assert torch.equal(one[part][name], other[part][name]), f"{part} {name}"


def log_a_loss_that_one_rank_has_not(folder: str) -> None:
    cfg = add_rc2l_config(get_cfg())
    model = torch.nn.Linear(1, 1)
    trainer = SemiSupervisedTrainer(cfg, model, None, torch.optim.SGD(model.parameters(), 0.1), None)
    trainer.iter = LOG_PERIOD - 1
    try:
        trainer._write_metrics({"loss_ce": torch.tensor([1.0, float("nan")][comm.get_rank()])}, 0.0)
    except FloatingPointError as error:
        Path(folder, f"rank{comm.get_rank()}").write_text(str(error))


def test_a_loss_that_is_not_finite_ends_training_on_every_rank(tmp_path):
    launch(log_a_loss_that_one_rank_has_not, 2, dist_url="auto", args=(str(tmp_path),))
    told = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1] and "[{}, {'loss_ce': nan}]" in told[0]

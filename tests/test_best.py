"""The best result beside the last: while training, in checkpoints, after resuming."""

from __future__ import annotations

import json
import math

import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.best import BestResults


def update(best: BestResults, iteration: int, *values: float) -> list[tuple]:
    """Student (and teacher) have these mIoUs on a data set; gives (last, best, iteration of the best) of each."""
    tasks = {task: {"mIoU": value} for task, value in zip(("sem_seg", "sem_seg_teacher"), values, strict=False)}
    best.update({"val": tasks}, iteration)
    return [tuple(metrics.values()) for metrics in tasks.values()]


def test_the_first_best_of_each_stays():
    best = BestResults()
    assert update(best, 9, 10.0, 30.0) == [(10, 10, 9), (30, 30, 9)]
    assert update(best, 19, 20.0, 25.0) == [(20, 20, 19), (25, 30, 9)]
    assert update(best, 29, 20.0, 31.0) == [(20, 20, 19), (31, 31, 29)]
    other = BestResults()
    other.load_state_dict(best.state_dict())
    assert update(other, 39, 1.0, 2.0) == [(1, 20, 19), (2, 31, 29)]


def test_data_sets_are_kept_apart_and_what_is_no_number_is_no_best():
    best = BestResults()
    assert update(best, 1, math.nan)[0][1:] == ()
    assert update(best, 2, 5.0) == [(5, 5, 2)]
    assert update(best, 3, math.nan)[0][1:] == (5, 2)
    tasks = {"sem_seg": {"mIoU": 3.0}}
    best.update({"other": tasks}, 4)
    assert tasks["sem_seg"] == {"mIoU": 3.0, "mIoU_best": 3.0, "mIoU_best_iteration": 4}
    best.update({}, 5)


class Scripted(RC2LTrainer):
    """Trains, and reports what is in ``values``, of the teacher one more."""

    values: list[float] = []

    @classmethod
    def test(cls, cfg, model, teacher=None):
        value = cls.values.pop(0)
        return {"sem_seg": {"mIoU": value}, "sem_seg_teacher": {"mIoU": value + 1}}


def train(options: list[str], values: list[float], *more: str, resume: bool = False) -> Scripted:
    cfg = load_config("configs/toy/supervised_R18.yaml", [*options, "SOLVER.CHECKPOINT_PERIOD", "1", *more])
    trainer = Scripted(cfg)
    Scripted.values = values
    trainer.resume_or_load(resume=resume)
    trainer.train()
    assert not values
    return trainer


def best_in(path) -> dict:
    return torch.load(path, weights_only=True)["best"]["best"]


def test_a_resumed_run_keeps_the_best(tiny_options, tmp_path):
    out, options = tmp_path / "out", tiny_options
    trainer = train(options, [10.0, 30.0, 20.0], "SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "1")
    assert trainer.last_results["sem_seg"] == {"mIoU": 20.0, "mIoU_best": 30.0, "mIoU_best_iteration": 1}
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    last = next(row for row in rows if row["iteration"] == 3)
    assert [last[f"sem_seg/mIoU{end}"] for end in ("", "_best", "_best_iteration")] == [20, 30, 1]

    # Each checkpoint knows of the evaluation that followed it in its own iteration, and nothing later.
    assert best_in(out / "model_0000000.pth") == {"tiny_val/sem_seg": (10, 0), "tiny_val/sem_seg_teacher": (11, 0)}
    assert best_in(out / "model_0000001.pth")["tiny_val/sem_seg"] == (30, 1)
    assert not [*out.glob("*.tmp")]

    # A run that was cut off after iteration 0 has not seen the 30; one that ended before it was prolonged has.
    longer = ("SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "0")
    trainer = train(options, [40.0], *longer, resume=True)
    assert trainer.last_results["sem_seg_teacher"] == {"mIoU": 41.0, "mIoU_best": 41.0, "mIoU_best_iteration": 4}
    trainer = train(options, [35.0], "SOLVER.MAX_ITER", "5", resume=True)
    assert trainer.start_iter == 4
    assert trainer.last_results["sem_seg"] == {"mIoU": 35.0, "mIoU_best": 40.0, "mIoU_best_iteration": 4}
    (out / "last_checkpoint").write_text("model_0000000.pth")
    trainer = train(options, [5.0], *longer, resume=True)
    assert trainer.start_iter == 1
    assert trainer.last_results["sem_seg"] == {"mIoU": 5.0, "mIoU_best": 10.0, "mIoU_best_iteration": 0}


def test_evaluation_alone_has_no_best(tiny_options, tmp_path):
    trainer = train(tiny_options, [10.0], "SOLVER.MAX_ITER", "1")
    weights = str(tmp_path / "out" / "model_final.pth")
    alone = Scripted(load_config("configs/toy/supervised_R18.yaml", [*tiny_options, "MODEL.WEIGHTS", weights]))
    alone.load_for_evaluation()
    Scripted.values = [10.0]
    assert alone.evaluate()["sem_seg"] == {"mIoU": 10.0} and "mIoU_best" in trainer.last_results["sem_seg"]
    # Nor do weights that training starts from bring one along.
    options = [*tiny_options, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "new")]
    trainer = train(options, [3.0], "SOLVER.MAX_ITER", "1")
    assert trainer.last_results["sem_seg"]["mIoU_best"] == 3.0

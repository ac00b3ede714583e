"""Best results beside the last: while training, in checkpoints, after resuming."""

import json
import math

import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.best import BestResults
from rc2l_d2.engine.checkpoint import RegionCheckpointer


def update(best: BestResults, iteration: int, *values: float) -> list[tuple]:
    """Update with the mIoUs of student (and teacher); return (last, best, iteration of the best) of each."""
    tasks = {task: {"mIoU": value} for task, value in zip(("sem_seg", "sem_seg_teacher"), values, strict=False)}
    best.update({"val": tasks}, iteration)
    return [tuple(metrics.values()) for metrics in tasks.values()]


def test_the_first_best_of_each_task_and_data_set_is_kept():
    best = BestResults()
    assert update(best, 5, math.nan)[0][1:] == ()
    assert update(best, 9, 10.0, 30.0) == [(10, 10, 9), (30, 30, 9)]
    assert update(best, 14, math.nan)[0][1:] == (10, 9)
    assert update(best, 19, 20.0, 25.0) == [(20, 20, 19), (25, 30, 9)]
    assert update(best, 29, 20.0, 31.0) == [(20, 20, 19), (31, 31, 29)]
    other = BestResults()
    other.load_state_dict(best.state_dict())
    assert update(other, 39, 1.0, 2.0) == [(1, 20, 19), (2, 31, 29)]
    tasks = {"sem_seg": {"mIoU": 3.0}}
    best.update({"other": tasks}, 40)
    assert tasks["sem_seg"] == {"mIoU": 3.0, "mIoU_best": 3.0, "mIoU_best_iteration": 40}
    best.update({}, 50)


class Scripted(RC2LTrainer):
    """A trainer whose evaluations return the next of ``values`` (student) and one more (teacher)."""

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


def test_best_results_in_checkpoints_and_after_a_resume(tiny_options, tmp_path):
    out, options = tmp_path / "out", tiny_options
    trainer = train(options, [10.0, 30.0, 20.0], "SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "1")
    assert trainer.last_results["sem_seg"] == {"mIoU": 20.0, "mIoU_best": 30.0, "mIoU_best_iteration": 1}
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    last = next(row for row in rows if row["iteration"] == 3)
    assert [last[f"sem_seg/mIoU{end}"] for end in ("", "_best", "_best_iteration")] == [20, 30, 1]

    # Each checkpoint has the evaluation that followed it in its own iteration, and no later one.
    best = [torch.load(out / f"model_000000{number}.pth", weights_only=True)["best"]["best"] for number in (0, 1)]
    assert best[0] == {"tiny_val/sem_seg": (10, 0), "tiny_val/sem_seg_teacher": (11, 0)}
    assert best[1]["tiny_val/sem_seg"] == (30, 1)
    assert not [*out.glob("*.tmp")]

    longer = ("SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "0")
    trainer = train(options, [25.0], *longer, resume=True)
    assert trainer.last_results["sem_seg_teacher"] == {"mIoU": 26.0, "mIoU_best": 31.0, "mIoU_best_iteration": 1}
    (out / "last_checkpoint").write_text("model_0000000.pth")
    trainer = train(options, [5.0], *longer, resume=True)
    assert trainer.start_iter == 1, "before the 30"
    assert trainer.last_results["sem_seg"] == {"mIoU": 5.0, "mIoU_best": 10.0, "mIoU_best_iteration": 0}

    # Neither an evaluation alone nor a run that starts from weights has an earlier best.
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    alone = Scripted(load_config("configs/toy/supervised_R18.yaml", [*options, *weights]))
    alone.load_for_evaluation()
    Scripted.values = [10.0]
    assert alone.evaluate()["sem_seg"] == {"mIoU": 10.0}
    trainer = train(options, [3.0], *weights, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "new"))
    assert trainer.start_iter == 0 and {state["step"].item() for state in trainer.optimizer.state.values()} == {1}
    assert trainer.last_results["sem_seg"]["mIoU_best"] == 3.0


def test_results_are_in_metrics_json_before_a_checkpoint_counts_them_as_done(tiny_options, tmp_path, monkeypatch):
    """So that a run that is killed between the two evaluates again, and loses nothing."""
    out, written, refresh = tmp_path / "out", [], RegionCheckpointer.refresh

    def recording(checkpointer, name, key):
        rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
        written.append((name, [row["iteration"] for row in rows if "sem_seg/mIoU" in row]))
        refresh(checkpointer, name, key)

    monkeypatch.setattr(RegionCheckpointer, "refresh", recording)
    run = ("SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "1")
    train(tiny_options, [10.0, 30.0], *run[:1], "2", *run[2:])
    (out / "last_checkpoint").write_text("model_0000001.pth")  # of a run that has not evaluated it
    train(tiny_options, [30.0, 20.0, 40.0], *run, resume=True)
    assert written == [
        ("model_0000000", [0]), ("model_final", [0, 2]),
        ("model_0000001", [0, 2, 1]), ("model_0000002", [0, 2, 1, 2]), ("model_final", [0, 2, 1, 2, 4]),
    ]  # fmt: skip

"""A run that is killed again and again, once or more in each phase, ends bit by bit like an uninterrupted one."""

import os
import random
import signal
import time

import pytest
from training_runs import Runs, assert_same, last_checkpoint, starts, wait_for

# The teacher learns from iteration 4 on, at full weight from 8; classes of regions are fitted after 4, 8 and 12.
OPTIONS = """
    SOLVER.MAX_ITER 12 SOLVER.CHECKPOINT_PERIOD 1 SOLVER.CHECKPOINT_KEEP 2 TEST.EVAL_PERIOD 6
    MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 4 MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS 4
""".split()
# What the log of a start shows before the run is killed: in a step, or while the file of a checkpoint is written.
STEP, WRITE = False, True
KILLS = [
    ("Starting training from", STEP),  # the first
    ("model_0000000.pth", WRITE),
    ("model_0000001.pth", STEP),  # of the burn-in
    ("model_0000002.pth", WRITE),
    ("were fitted", STEP),  # not yet in a checkpoint
    ("model_0000004.pth", STEP),  # of the ramp
    ("model_0000005.pth", WRITE),
    ("Start inference", STEP),
    ("Inference took", WRITE),  # the checkpoint again, with the best mIoU
    ("were fitted", STEP),
    ("model_0000009.pth", STEP),  # at full weight
    ("were fitted", STEP),
    ("model_final.pth", WRITE),
    ("Start inference", STEP),  # Only the last evaluation is missing.
]


@pytest.mark.slow
def test_kills_in_each_phase_lose_only_the_steps_since_the_last_checkpoint(toy_definition, tmp_path):
    runs, moments = Runs(toy_definition, tmp_path), random.Random(0)
    uninterrupted = runs.finish("uninterrupted", runs.fork("uninterrupted", *OPTIONS, "SOLVER.CHECKPOINT_PERIOD", "12"))
    out, saved, while_writing = tmp_path / "killed", -1, 0
    unfinished = out / "checkpoint.tmp"
    for kill, (moment, writing) in enumerate(KILLS):
        unfinished.unlink(missing_ok=True)  # The run would overwrite it; this test waits for the next one.
        before = len(runs.log("killed")) if kill else 0
        run = runs.fork("killed", "--resume", *OPTIONS)
        wait_for(run, lambda words=moment, before=before: words in _log(runs)[before:])
        if writing:
            wait_for(run, unfinished.exists)
        time.sleep(moments.uniform(0, 0.05))
        assert run.poll() is None, f"the run ended before kill {kill}\n{runs.log('killed')}"
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait(100) == -signal.SIGKILL, runs.log("killed")
        assert len(starts(out)) == kill + 1 and starts(out)[-1] == min(saved + 1, 12), "a saved step was lost"
        while_writing += unfinished.exists()
        saved = last_checkpoint(out)
    assert while_writing >= 3 and saved >= 11, "The last two kills are after the last step."
    assert_same(uninterrupted, runs.finish("killed", runs.fork("killed", "--resume", *OPTIONS)), [5, 12])


def _log(runs: Runs) -> str:
    return runs.log("killed") if (runs.folder / "killed.log").exists() else ""

"""Statistics of all steps on all ranks, fetched in one copy per log period."""

import json
from pathlib import Path

import pytest
import torch
from conftest import launch_ranks

from rc2l_d2.engine.step_log import StepLog
from rc2l_d2.errors import InputError
from rc2l_d2.host import EventStorage, comm, get_event_storage

NAMES = ["road", "car"]
NORM = torch.tensor(1.0)
NAN, INF = torch.tensor(float("nan")), torch.tensor(float("inf"))


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(float(value), requires_grad=True) for name, value in values.items()}


def written(log: StepLog) -> dict[str, float]:
    with EventStorage():
        log.write()
        return {name: value for name, (value, _) in get_event_storage().latest().items()}


def test_medians_over_the_steps_of_each_period():
    log = StepLog(NAMES)
    # The unlabelled loss begins in the third step: burn-in may end within a period.
    for iteration, (ce, waited) in enumerate([(1.0, 0.5), (9.0, 0.1), (2.0, 0.2)]):
        some = losses(ce=ce, **({"smc": 4.0} if iteration == 2 else {}))
        log.add(iteration, some, torch.tensor(float(iteration)), waited, [])
    assert written(log) == {"ce": 2.0, "smc": 4.0, "total_loss": 6.0, "data_time": 0.2, "gradient_norm": 1.0}
    log.add(3, losses(ce=7.0), NORM, 0.3, [])
    log.telemetry.add({"compared": torch.tensor(4), "agreed": torch.tensor(3)})
    assert written(log) == {
        "ce": 7.0, "total_loss": 7.0, "data_time": 0.3, "gradient_norm": 1.0, "pseudo/agreement": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize("value", [NAN, INF])
def test_non_finite_values_are_found_at_the_end_of_the_period(value):
    log = StepLog(NAMES)
    for iteration, rcc in ((20, 1.0), (21, value), (22, 1.0)):
        log.add(iteration, losses(ce=1.0, rcc=rcc), NORM, 0.0, [f"{iteration}.png", "b.png"])
    with pytest.raises(FloatingPointError) as error:
        written(log)
    expected = f"Non-finite losses at iteration 21: rank 0: {{'rcc': {float(value)}}}, images 21.png, b.png"
    assert str(error.value).startswith(f"{expected}; lower SOLVER.BASE_LR, ") and isinstance(error.value, InputError)
    # Non-finite gradients are normal with loss scaling, but not twenty in a row.
    norms = [NORM, value, *[NORM] * 18]
    for scaling, these, bad in ((False, norms, 1), (True, [value] * 20, 19), (True, norms, None)):
        log = StepLog(NAMES, scaling)
        for iteration, norm in enumerate(these):
            log.add(iteration, losses(ce=1.0), norm, 0.0, [f"{iteration}.png"])
        if bad is None:
            assert written(log)["gradient_norm"] == 1.0
            continue
        with pytest.raises(FloatingPointError, match=rf"Non-finite gradient at iteration {bad}: images {bad}.png"):
            written(log)


def test_infinite_gradients_in_a_row_are_counted_over_short_periods():
    log = StepLog(NAMES, bears_infinite_gradients=True)
    for iteration in range(24):
        log.add(iteration, losses(ce=1.0), NORM if iteration == 3 else INF, 0.0, [f"{iteration}.png"])
        if iteration == 23:
            with pytest.raises(FloatingPointError, match="Non-finite gradient at iteration 23: images 23.png"):
                written(log)
        elif iteration % 5 == 4:
            written(log)


def test_max_bad_steps_are_logged_and_left_out(logged):
    log = StepLog(NAMES, max_bad_steps=2)
    for iteration, (loss, norm) in enumerate([(1.0, NORM), (NAN, NAN), (3.0, NORM), (5.0, NAN)]):
        log.add(iteration, losses(ce=loss), norm, 0.0, [f"{iteration}.png"])
    assert written(log) == {"ce": 2.0, "total_loss": 2.0, "data_time": 0.0, "gradient_norm": 1.0}
    assert [message for _, message in logged] == [
        "Non-finite losses at iteration 1: rank 0: {'ce': nan}, images 1.png; step skipped, "
        "1 of the 2 that SOLVER.MAX_BAD_STEPS allows.",
        "Non-finite gradient at iteration 3: images 3.png; step skipped, 2 of the 2 that SOLVER.MAX_BAD_STEPS allows.",
    ]
    log.add(4, losses(ce=INF), NAN, 0.0, ["4.png"])
    with pytest.raises(FloatingPointError, match=r"Non-finite losses at iteration 4: rank 0: {'ce': inf}"):
        written(log)
    # A bad loss with a finite gradient has moved the weights; a period may hold bad steps alone.
    log = StepLog(NAMES, max_bad_steps=9)
    log.add(0, losses(ce=NAN), NAN, 0.0, [])
    assert written(log) == {}
    log.add(1, losses(ce=INF), NORM, 0.0, ["a.png"])
    with pytest.raises(FloatingPointError, match="iteration 1"):
        written(log)


def write_on_two(folder: str) -> None:
    rank = comm.get_rank()
    log = StepLog(NAMES)
    log.add(0, losses(ce=[1, 2][rank]), NORM, [0.1, 0.3][rank], [])
    log.add(1, losses(ce=[3, 4][rank]), NORM, [0.2, 0.1][rank], [])
    log.telemetry.add({"compared": torch.tensor(4), "agreed": torch.tensor([1, 3][rank])})
    log.telemetry.add({name: torch.tensor(count) for name, count in
                       {"labelled": [4, 2], "claimed": [2, 0], "correct": [[1, 0], [2, 0]][rank]}.items()})  # fmt: skip
    first = written(log)
    log.add(2, losses(ce=[1.0, NAN][rank]), NORM, 0.0, [f"{rank}.png"])
    try:
        written(log)
    except FloatingPointError as error:
        Path(folder, f"rank{rank}").write_text(json.dumps([first, str(error)]))


@pytest.mark.slow
def test_two_ranks_are_averaged_and_stop_together(tmp_path):
    launch_ranks(write_on_two, 2, str(tmp_path))
    one, other = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert one == other
    assert one[0] == pytest.approx({
        "ce": (1.5 + 3.5) / 2, "total_loss": 2.5, "data_time": 0.25, "gradient_norm": 1.0,
        "pseudo/agreement": 0.5, "pseudo/accuracy": 3 / 4,
        "pseudo/precision": 3 / 4, "pseudo/recall": (3 / 8 + 0) / 2, "pseudo/precision-road": 3 / 4,
        "pseudo/recall-road": 3 / 8, "pseudo/recall-car": 0,
    })  # fmt: skip
    assert one[1].startswith("Non-finite losses at iteration 2: rank 1: {'ce': nan}, images 1.png; lower")

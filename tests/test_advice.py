"""Warnings about training problems, and none for a healthy run."""

import pytest
import torch

from rc2l_d2.engine.advice import Advice

NAMES = ["road", "car", "sky"]
WELL = {"images": 320, "pixels": 1000, "confident": 800, "pseudo_area": [500, 200, 100], "label_area": [60, 30, 10]}
UNSURE = {**WELL, "confident": 9, "pseudo_area": [4, 3, 2]}
ONE_CLASS = {**WELL, "pseudo_area": [798, 2, 0]}


def warnings_of(periods: list[dict], losses: list[float] | None = None) -> dict[int, str]:
    """Return {iteration: warning} of a run with these periods of 20 iterations."""
    advice, sentences = Advice(NAMES), {}
    for number, values in enumerate(periods):
        counts = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        loss = 1.0 if losses is None else losses[number]
        scalars = {"loss_ce": loss / 2, "loss_mask": loss / 4, "loss_dice": loss / 4, "loss_smc": 9.0, "lr": 0.1}
        for sentence in advice.check(20 * number + 19, counts, scalars):
            assert 20 * number + 19 not in sentences
            sentences[20 * number + 19] = sentence
    return sentences


def test_a_healthy_run_has_no_warning():
    falling = [4.0 / (1 + number) + (0.1, -0.05, 0.0)[number % 3] for number in range(100)]
    assert warnings_of([{}] * 20 + [WELL] * 80, falling) == {}


@pytest.mark.parametrize("trouble, fragments", [
    (UNSURE, ["0.9% of the pixels", "CLASS_THRESHOLD_RATIO", "BURN_IN_ITERS"]),
    (ONE_CLASS, ["99.8% of the confident pixels", "'road'", "60.0%", "BURN_IN_ITERS"]),
    ({**WELL, "pseudo_area": [0, 0, 800]}, ["100.0%", "'sky'", "10.0%"]),
    ({**WELL, "confident": 0, "pseudo_area": [0, 0, 0]}, ["0.0% of the pixels"]),
])  # fmt: skip
def test_a_collapse_is_logged_every_thousand_iterations(trouble, fragments):
    sentences = warnings_of([WELL] * 2 + [trouble] * 60 + [WELL] * 5)
    assert [*sentences] == [159, 1159], "it starts at iteration 59 and must last for 100"
    for sentence in sentences.values():
        assert all(fragment in sentence for fragment in fragments) and "\n" not in sentence


@pytest.mark.parametrize("values", [
    pytest.param({"pseudo_area": [800, 0, 0], "label_area": [100, 0, 0]}, id="labels of one class"),
    pytest.param({"pseudo_area": [796, 4, 0]}, id="half a percent instead of forty"),
    pytest.param({"pseudo_area": [799.9, 0.1, 0], "label_area": [9999, 1, 0]}, id="rare also in the labels"),
    pytest.param({"confident": 11, "pseudo_area": [5, 4, 2]}, id="a little more than one percent is confident"),
])  # fmt: skip
def test_cases_without_a_collapse(values):
    assert warnings_of([{**WELL, **values}] * 8) == {}


def test_problems_that_do_not_last_and_counts_of_few_images():
    assert warnings_of(([ONE_CLASS] * 5 + [WELL]) * 4 + [UNSURE] * 5 + [WELL]) == {}
    few = {**ONE_CLASS, "images": 10}
    assert [*warnings_of([few] * 10)] == [79 + 100], "four periods have forty images"
    assert warnings_of([few, {**WELL, "images": 10}] * 10) == {}


def test_rising_losses_are_logged():
    low, high = [3.0, 2.0, *[1.0] * 8], [2.5] * 8
    sentences = warnings_of([{}] * 18, low + high)
    assert [*sentences] == [20 * 12 + 19 + 100], "when three of five periods are high, and that lasts"
    assert all(word in sentences[359] for word in ("from 1 to 2.5", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR"))
    assert warnings_of([{}] * 20, [*[1.0] * 9, 5.0, 5.0, *[1.0] * 9]) == {}, "two high periods are noise"
    assert warnings_of([{}] * 20, [*[1.0] * 6, *[1.9] * 14]) == {}


def test_a_run_without_confident_pseudo_labels_logs_a_warning(make_trainer, logged, monkeypatch):
    monkeypatch.setattr("rc2l_d2.engine.advice.LASTING", 0)
    schedule = ("SOLVER.MAX_ITER", "22", "SOLVER.CHECKPOINT_PERIOD", "22", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "2")
    make_trainer(*schedule, "DATASETS.TEST", "()", "MODEL.RC2L.CONFIDENCE_THRESHOLD", "1.0").train()
    (warning,) = [message for level, message in logged if level == "WARNING"]
    assert "Only 0.0% of the pixels" in warning

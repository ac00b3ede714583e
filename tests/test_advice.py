"""What a run's own numbers say is wrong with it, and that they say nothing of a run that goes well."""

from __future__ import annotations

import pytest
import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.advice import Advice

NAMES = ["road", "car", "sky"]
WELL = {"images": 320, "positions": 1000, "confident": 800, "pseudo_area": [500, 200, 100], "label_area": [60, 30, 10]}
UNSURE = {**WELL, "confident": 9, "pseudo_area": [4, 3, 2]}
ONE_CLASS = {**WELL, "pseudo_area": [798, 2, 0]}


def counts(values: dict) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def told(periods: list[dict], losses: list[float] | None = None) -> dict[int, str]:
    """Iteration -> the sentence that a run of these periods of 20 iterations is told then."""
    advice, sentences = Advice(NAMES), {}
    for number, values in enumerate(periods):
        loss = 1.0 if losses is None else losses[number]
        scalars = {"loss_ce": loss / 2, "loss_mask": loss / 4, "loss_dice": loss / 4, "loss_smc": 9.0, "lr": 0.1}
        for sentence in advice.look(20 * number + 19, counts(values), scalars):
            assert 20 * number + 19 not in sentences
            sentences[20 * number + 19] = sentence
    return sentences


def test_a_run_that_goes_well_is_told_nothing():
    falling = [4.0 / (1 + number) + (0.1, -0.05, 0.0)[number % 3] for number in range(100)]
    assert told([{}] * 20 + [WELL] * 80, falling) == {}


@pytest.mark.parametrize("trouble, said", [
    (UNSURE, ["0.9% of the pixels", "CLASS_THRESHOLD_RATIO", "BURN_IN_ITERS"]),
    (ONE_CLASS, ["99.8% of the confident pixels", "'road'", "60.0%", "BURN_IN_ITERS"]),
    ({**WELL, "pseudo_area": [0, 0, 800]}, ["100.0%", "'sky'", "10.0%"]),
    ({**WELL, "confident": 0, "pseudo_area": [0, 0, 0]}, ["0.0% of the pixels"]),
])  # fmt: skip
def test_a_collapse_is_told_once_a_thousand_iterations_with_advice(trouble, said):
    sentences = told([WELL] * 2 + [trouble] * 60 + [WELL] * 5)
    assert [*sentences] == [159, 1159], "from iteration 59 on, when it has lasted"
    for sentence in sentences.values():
        assert all(fragment in sentence for fragment in said) and "\n" not in sentence


@pytest.mark.parametrize("values", [
    pytest.param({"pseudo_area": [800, 0, 0], "label_area": [100, 0, 0]}, id="labels of one class"),
    pytest.param({"pseudo_area": [796, 4, 0]}, id="half a percent instead of forty"),
    pytest.param({"pseudo_area": [799.9, 0.1, 0], "label_area": [9999, 1, 0]}, id="rare also in the labels"),
    pytest.param({"confident": 11, "pseudo_area": [5, 4, 2]}, id="a little more than one percent is confident"),
])  # fmt: skip
def test_what_is_no_collapse(values):
    assert told([{**WELL, **values}] * 3) == {}


def test_what_passes_is_not_told():
    assert told(([ONE_CLASS] * 5 + [WELL]) * 4 + [UNSURE] * 5 + [WELL]) == {}


def test_few_images_are_put_together_before_they_are_judged():
    few = {**ONE_CLASS, "images": 10}
    assert [*told([few] * 10)] == [79 + 100], "four periods have forty images"
    assert told([few, {**WELL, "images": 10}] * 10) == {}


def test_losses_that_rise_are_told():
    low, high = [3.0, 2.0, *[1.0] * 8], [2.5] * 8
    sentences = told([{}] * 18, low + high)
    assert [*sentences] == [20 * 12 + 19 + 100], "three of five periods are high, and it lasts"
    assert all(word in sentences[359] for word in ("from 1 to 2.5", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR"))
    assert told([{}] * 20, [*[1.0] * 9, 5.0, 5.0, *[1.0] * 9]) == {}, "two are noise"
    assert told([{}] * 20, [*[1.0] * 6, *[1.9] * 14]) == {}


@pytest.mark.parametrize("options, warned", [
    # No probability is above 1.
    (("MODEL.RC2L.CONFIDENCE_THRESHOLD", "1.0"), "0.0% of the pixels"),
    ((), "'disc'"),
])  # fmt: skip
def test_a_tiny_run_whose_pseudo_labels_collapse_says_so(tiny_options, request, monkeypatch, options, warned):
    monkeypatch.setattr("rc2l_d2.engine.advice.LASTING", 0)
    schedule = ("SOLVER.MAX_ITER", "22", "SOLVER.CHECKPOINT_PERIOD", "22", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "2")
    overrides = [*tiny_options, *schedule, "DATASETS.TEST", "()", *options]
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", overrides))
    trainer.resume_or_load(resume=False)
    if not options:  # a teacher that says one class, whatever it sees
        view = trainer.teacher.view

        def constant(*args):
            seen = view(*args)
            seen.probabilities.copy_(torch.eye(8)[1].view(1, 8, 1, 1).expand_as(seen.probabilities))
            return seen

        trainer.teacher.view = constant
    logged = request.getfixturevalue("told")
    trainer.train()
    warnings = [message for level, message in logged if level == "WARNING"]
    assert len(warnings) == 1 and warned in warnings[0]

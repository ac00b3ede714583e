"""The numbers about pseudo labels in the log: sums over steps and processes, and what they don't disturb."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.step_log import StepLog
from rc2l_d2.engine.telemetry import PseudoLabelTelemetry
from rc2l_d2.regions import pseudo_regions, select

NAMES = ["road", "car", "sky", "pole"]
COVERAGE = {"confident": 3, "positions": 4, "regions": 5, "images": 2, "classes_present": 2, "classes": 4}
STUDENT = {"asked": 4, "agreed": 1}
QUALITY = {"labelled": [4, 2, 0, 2], "claimed": [2, 0, 1, 4], "correct": [1, 0, 0, 1]}


def counts(values: dict) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def read(telemetry: PseudoLabelTelemetry) -> dict[str, float]:
    return telemetry.shares(telemetry.take())


def test_numbers_by_hand():
    telemetry = PseudoLabelTelemetry(NAMES)
    for part in (COVERAGE, STUDENT, QUALITY):
        telemetry.add(counts(part))
    assert read(telemetry) == pytest.approx({
        "pseudo/confident_share": 0.75, "pseudo/regions_per_image": 2.5, "pseudo/classes_present": 0.5,
        "pseudo/agreement": 0.25, "pseudo/accuracy": 2 / 7, "pseudo/precision": (1 / 2 + 0 + 1 / 4) / 3,
        "pseudo/recall": (1 / 4 + 0 + 1 / 2) / 3,
        "pseudo/precision-road": 1 / 2, "pseudo/precision-sky": 0, "pseudo/precision-pole": 1 / 4,
        "pseudo/recall-road": 1 / 4, "pseudo/recall-car": 0, "pseudo/recall-pole": 1 / 2,
    })  # fmt: skip


def test_sums_over_steps_and_starts_again_when_read():
    telemetry = PseudoLabelTelemetry(NAMES)
    assert read(telemetry) == {}
    for agreed in (4, 1, 1):
        telemetry.add(counts(COVERAGE))
        telemetry.add(counts({"asked": 4, "agreed": agreed}))
    assert read(telemetry)["pseudo/agreement"] == 0.5
    assert read(telemetry) == {}
    telemetry.add(counts({**COVERAGE, **STUDENT}))
    assert read(telemetry)["pseudo/agreement"] == 0.25


def test_what_has_nothing_to_divide_by_is_left_out():
    telemetry = PseudoLabelTelemetry(NAMES)
    nothing = {name: [0] * 4 for name in QUALITY}
    telemetry.add(counts({**COVERAGE, "confident": 0, "asked": 0, "agreed": 0, **nothing}))
    shares = read(telemetry)
    assert shares["pseudo/confident_share"] == 0
    assert set(shares) == {"pseudo/confident_share", "pseudo/regions_per_image", "pseudo/classes_present"}


@pytest.fixture
def make_trainer(tiny_options):
    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options]))
        trainer.resume_or_load(resume=False)
        return trainer

    return make


MEASURED = ("MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True")


def test_measuring_changes_no_loss(make_trainer, monkeypatch):
    streams, seen = [], []

    def keep(self, iteration, losses, gradient, data_time, files):
        streams[-1].append({name: loss.item() for name, loss in losses.items()})
        seen.append(read(self.telemetry))

    monkeypatch.setattr(StepLog, "add", keep)
    for options in ((), MEASURED):
        streams.append([])
        trainer = make_trainer("SOLVER.MAX_ITER", "4", "DATASETS.TEST", "()", *options)
        trainer.train()
        assert ("pseudo/accuracy" in seen[-1]) == bool(options)
    assert len(streams[0]) == 4 and "loss_smc" in streams[0][-1]
    assert streams[0] == streams[1]


def test_accuracy_is_that_of_the_pseudo_labels_before_mixing(make_trainer):
    step = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4", *MEASURED)._trainer
    unlabeled = next(iter(step.data_loader))[1]
    strong, pseudo, view = step.teach(unlabeled)
    shares = read(step.log.telemetry)
    student = step.model
    weak = student.preprocess([sample["image"] for sample in unlabeled]).tensor
    unmixed = step.teacher.view(weak, torch.stack([sample["inside"] for sample in unlabeled]))
    thresholds = step.teacher.thresholds(student.selection)
    expected = pseudo_regions(select(unmixed, thresholds, student.selection.unit), step.method.MIN_REGION_AREA)
    right = claimed = 0
    for image, sample in enumerate(unlabeled):
        for y in range(16):
            for x in range(16):
                truth = int(sample["sem_seg"][4 * y + 2, 4 * x + 2])
                if truth != 255 and expected.valid[image, y, x]:
                    claimed += 1
                    right += int(expected.masks[image, :, y, x].argmax()) == truth
    assert claimed > 100
    assert shares["pseudo/accuracy"] == pytest.approx(right / claimed, abs=1e-9)
    # The others are of the mixed images, as the student sees them.
    assert shares["pseudo/confident_share"] == pytest.approx((pseudo.valid.sum() / view.inside.sum()).item())
    assert shares["pseudo/regions_per_image"] == pytest.approx(pseudo.present.sum(1).double().mean().item())


@pytest.mark.parametrize("unit, other", [("region", "pixel"), ("pixel", "region")])
def test_pseudo_regions_are_selected_as_the_model_says(make_trainer, monkeypatch, unit, other):
    step = make_trainer("MODEL.SEMI_SUPERVISED.MIX", "none", "MODEL.RC2L.SELECTION", unit,
                        "MODEL.RC2L.CONFIDENCE_THRESHOLD", "0.0", "MODEL.RC2L.CLASS_THRESHOLD_RATIO", "1.0",
                        )._trainer  # fmt: skip
    unlabeled = next(iter(step.data_loader))[1]
    _, _, view = step.teach(unlabeled)
    monkeypatch.setattr(step.teacher, "observe", lambda view: None)
    step.teacher.class_confidence.fill_(view.probabilities[0].amax(dim=0).median())  # half of the first image is above
    _, pseudo, view = step.teach(unlabeled)
    by_unit = {
        name: pseudo_regions(select(view, step.teacher.class_confidence, name), step.method.MIN_REGION_AREA).masks
        for name in (unit, other)
    }
    assert torch.equal(pseudo.masks, by_unit[unit]) and not torch.equal(pseudo.masks, by_unit[other])


def test_agreement_is_the_students(make_trainer):
    """A student that is the teacher, on views that are not distorted, agrees everywhere."""
    trainer = make_trainer("MODEL.SEMI_SUPERVISED.MIX", "none", "INPUT.STRONG_JITTER", "(0.,0.,0.,0.)")
    step = trainer._trainer
    labeled, unlabeled = next(iter(step.data_loader))
    for sample in unlabeled:
        sample["strong"] = sample["image"]
    # Batch statistics would tell the two apart.
    for module in step.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    strong, pseudo, view = step.teach(unlabeled)
    look = partial(step.look, unlabeled, strong, pseudo)
    step.model(labeled, strong, pseudo, view, 1.0, look)
    assert read(step.log.telemetry)["pseudo/agreement"] > 0.99
    with torch.no_grad():
        step.model.sem_seg_head.predictor.class_embed.bias[3] += 100
    step.model(labeled, strong, pseudo, view, 1.0, look)
    label_3 = (pseudo.masks[:, 3].sum() / pseudo.valid.sum()).item()
    assert read(step.log.telemetry)["pseudo/agreement"] == pytest.approx(label_3, abs=0.01)


def test_mixing_draws_by_seed_and_iteration_alone(make_trainer):
    step, other = (make_trainer("SEED", seed)._trainer for seed in ("5", "6"))
    torch.manual_seed(1)
    step.iter = 7
    first = step.uniform(2, 4)
    torch.manual_seed(2)
    assert torch.equal(step.uniform(2, 4), first) and 0 <= first.min() and first.max() < 1
    other.iter = 7
    assert not torch.equal(other.uniform(2, 4), first)
    step.iter = 8
    assert not torch.equal(step.uniform(2, 4), first)

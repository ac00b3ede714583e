"""Fractions about pseudo labels in the log: sums over steps, and what a real step counts."""

import pytest
import torch
from step_cases import batch_after_burn_in, watched_step

from rc2l_d2.engine.telemetry import PseudoLabelTelemetry

NAMES = ["road", "car", "sky", "pole"]
COVERAGE = {"confident": 3, "pixels": 4, "regions": 5, "images": 2, "classes_present": 2, "classes": 4}
STUDENT = {"compared": 4, "agreed": 1}
QUALITY = {"labelled": [4, 2, 0, 2], "claimed": [2, 0, 1, 4], "correct": [1, 0, 0, 1]}
MEASURED = ("MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True")


def counts(values: dict) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def read(telemetry: PseudoLabelTelemetry) -> dict[str, float]:
    return telemetry.fractions(telemetry.take())


def test_fractions_by_hand():
    telemetry = PseudoLabelTelemetry(NAMES)
    for some in (COVERAGE, STUDENT, QUALITY):
        telemetry.add(counts(some))
    assert read(telemetry) == pytest.approx({
        "pseudo/confident_share": 0.75, "pseudo/regions_per_image": 2.5, "pseudo/classes_present": 0.5,
        "pseudo/agreement": 0.25, "pseudo/accuracy": 2 / 7, "pseudo/precision": (1 / 2 + 0 + 1 / 4) / 3,
        "pseudo/recall": (1 / 4 + 0 + 1 / 2) / 3,
        "pseudo/precision-road": 1 / 2, "pseudo/precision-sky": 0, "pseudo/precision-pole": 1 / 4,
        "pseudo/recall-road": 1 / 4, "pseudo/recall-car": 0, "pseudo/recall-pole": 1 / 2,
    })  # fmt: skip


def test_sums_start_again_when_read_and_fractions_of_nothing_are_left_out():
    telemetry = PseudoLabelTelemetry(NAMES)
    assert read(telemetry) == {}
    for agreed in (4, 1, 1):
        telemetry.add(counts({**COVERAGE, "compared": 4, "agreed": agreed}))
    assert read(telemetry)["pseudo/agreement"] == 0.5
    assert read(telemetry) == {}
    nothing = {name: [0] * 4 for name in QUALITY}
    telemetry.add(counts({**COVERAGE, "confident": 0, "compared": 0, "agreed": 0, **nothing}))
    assert read(telemetry) == {
        "pseudo/confident_share": 0, "pseudo/regions_per_image": 2.5, "pseudo/classes_present": 0.5
    }  # fmt: skip


def test_accuracy_is_that_of_the_pseudo_labels_before_mixing(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4", *MEASURED)
    predictor = trainer.teacher.model.sem_seg_head.predictor
    for parameter in (*predictor.class_probe.parameters(), *predictor.mask_embed.parameters()):
        torch.nn.init.normal_(parameter)  # Untrained, it would predict one class alone.
    batch = batch_after_burn_in(trainer)
    pseudo = watched_step(trainer, batch).pseudo
    fractions = read(trainer._trainer.log.telemetry)
    # The teacher has seen the batch, so its thresholds are those of the step.
    teacher = trainer.teacher
    expected = teacher.labeler.regions(teacher.labeler.select(teacher.predict(batch[1])))
    truth = torch.stack([sample["sem_seg"][2::4, 2::4] for sample in batch[1]])
    claimed = expected.valid & (truth != 255)
    right = (expected.masks.argmax(dim=1) == truth)[claimed]
    assert len(right) > 100 and not torch.equal(expected.masks, pseudo.masks)
    assert fractions["pseudo/accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)
    # The other fractions are of the same regions.
    confident = (expected.valid.sum() / expected.teacher.inside.sum()).item()
    assert fractions["pseudo/confident_share"] == pytest.approx(confident)
    assert fractions["pseudo/regions_per_image"] == pytest.approx(expected.present.sum(1).double().mean().item())


def test_pasted_labels_do_not_hide_that_nothing_is_confident(make_trainer):
    trainer = make_trainer("MODEL.SEMI_SUPERVISED.MIX", "labeled", "MODEL.RC2L.CONFIDENCE_THRESHOLD", "1.0")
    pseudo = watched_step(trainer).pseudo
    assert pseudo.valid.any(), "labelled regions are in the mixed images"
    fractions = read(trainer._trainer.log.telemetry)
    assert fractions["pseudo/confident_share"] == fractions["pseudo/regions_per_image"] == 0


def test_agreement_is_the_students(make_trainer):
    """A student that equals the teacher, on views that are not distorted, agrees everywhere."""
    trainer = make_trainer("MODEL.SEMI_SUPERVISED.MIX", "none", "INPUT.STRONG_JITTER", "(0.,0.,0.,0.)")
    batch, telemetry = batch_after_burn_in(trainer), trainer._trainer.log.telemetry
    for sample in batch[1]:
        sample["strong"] = sample["image"][None]
    # Batch statistics would tell the two apart.
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    watched_step(trainer, batch)
    assert read(telemetry)["pseudo/agreement"] > 0.99
    with torch.no_grad():
        trainer.model.sem_seg_head.predictor.class_probe.bias[3] += 100
    pseudo = watched_step(trainer, batch).pseudo
    label_3 = (pseudo.masks[:, 3].sum() / pseudo.valid.sum()).item()
    assert label_3 < 0.95, "the teacher's labels differ from the student's"
    assert read(telemetry)["pseudo/agreement"] == pytest.approx(label_3, abs=0.01)

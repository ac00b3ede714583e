"""The embedded host's evaluation."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rc2l_d2.host.embedded.catalog import DatasetCatalog, MetadataCatalog
from rc2l_d2.host.embedded.evaluation import inference_on_dataset, print_csv_format
from rc2l_d2.host.embedded.sem_seg_evaluation import SemSegEvaluator

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255], [0, 0, 255, 255]], dtype=np.uint8)
PREDICTION = np.array([[0, 0, 1, 0], [0, 2, 1, 2], [0, 0, 1, 0]])


@pytest.fixture
def dataset(tmp_path):
    """One image of classes a, b, c, of which c is absent from the ground truth, as a palette PNG."""
    image = Image.new("P", (4, 3))
    image.putdata(TRUTH.reshape(-1).tolist())
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200] + [0] * 759)
    image.save(tmp_path / "label.png")
    name = f"host_evaluation_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [{"file_name": "x.jpg", "sem_seg_file_name": str(tmp_path / "label.png")}])
    MetadataCatalog.get(name).set(stuff_classes=["a", "b", "c"], ignore_label=255)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def scores(prediction, classes=3):
    return nn.functional.one_hot(torch.as_tensor(prediction), classes).permute(2, 0, 1).float()


def evaluate(evaluator, prediction=PREDICTION):
    return inference_on_dataset(lambda _: [{"sem_seg": scores(prediction)}], [[{"file_name": "x.jpg"}]], evaluator)


def test_numbers_equal_those_of_a_hand_made_confusion_matrix(dataset):
    results = evaluate(SemSegEvaluator(dataset))
    # 9 pixels count. a: 6 in truth, 5 of them found, 6 predicted. b: 3, 2, 2. c: absent, predicted once.
    metrics = results["sem_seg"]
    iou_a, iou_b = 5 / 7, 2 / 3
    assert metrics["IoU-a"] == pytest.approx(100 * iou_a)
    assert metrics["IoU-b"] == pytest.approx(100 * iou_b)
    assert math.isnan(metrics["IoU-c"]) and math.isnan(metrics["ACC-c"])
    assert metrics["mIoU"] == pytest.approx(100 * (iou_a + iou_b) / 2)
    assert metrics["fwIoU"] == pytest.approx(100 * (6 * iou_a + 3 * iou_b) / 9)
    assert metrics["mACC"] == pytest.approx(100 * (5 / 6 + 2 / 3) / 2)
    assert metrics["pACC"] == pytest.approx(100 * 7 / 9)
    assert metrics["min(IoU, B-Iou)-a"] == min(metrics["IoU-a"], metrics["BoundaryIoU-a"])
    order = ["mIoU", "fwIoU"]
    order += [f"{kind}-{name}" for name in "abc" for kind in ("IoU", "BoundaryIoU", "min(IoU, B-Iou)")]
    assert list(metrics) == order + ["mACC", "pACC", "ACC-a", "ACC-b", "ACC-c"]


def test_boundary_iou_of_a_shifted_square(tmp_path):
    """100 x 100: the boundary is 3 pixels wide; label 1 on ground 0, whose own boundary is 0 everywhere."""
    truth, prediction = np.zeros((2, 100, 100), dtype=np.uint8)
    truth[20:40, 20:40] = 1
    prediction[20:40, 21:41] = 1
    Image.fromarray(truth).save(tmp_path / "y.png")
    DatasetCatalog.register("host_boundary", lambda: [{"file_name": "x.jpg", "sem_seg_file_name": tmp_path / "y.png"}])
    MetadataCatalog.get("host_boundary").set(stuff_classes=["a", "b"], ignore_label=255)
    metrics = evaluate(SemSegEvaluator("host_boundary"), prediction.astype(int))["sem_seg"]
    DatasetCatalog.remove("host_boundary")

    def ring(mask):
        inner = np.zeros_like(mask)
        rows, columns = np.nonzero(mask)
        inner[rows.min() + 3 : rows.max() - 2, columns.min() + 3 : columns.max() - 2] = 1
        return (mask - inner).astype(bool)

    one, other = ring(truth), ring(prediction)
    assert metrics["BoundaryIoU-b"] == pytest.approx(100 * (one & other).sum() / (one | other).sum())
    assert metrics["IoU-b"] == pytest.approx(100 * 380 / 420)


def test_wrong_labels_are_named(dataset):
    with pytest.raises(ValueError, match="label.png has shape"):
        evaluate(SemSegEvaluator(dataset), PREDICTION[:2])
    MetadataCatalog.remove(dataset)
    MetadataCatalog.get(dataset).set(stuff_classes=["a"], ignore_label=255)
    with pytest.raises(ValueError, match="label.png holds the value 1"):
        evaluate(SemSegEvaluator(dataset), np.zeros_like(PREDICTION))


def test_mode_is_restored_even_after_a_failure(dataset):
    class Fails(nn.Module):
        def forward(self, batch):
            assert not self.training
            raise RuntimeError("on purpose")

    model = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        inference_on_dataset(model, [[1]], SemSegEvaluator(dataset))
    assert model.training


def test_csv_shows_main_metrics():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger(print_csv_format.__module__)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    print_csv_format({"sem_seg": {"mIoU": 12.34567, "IoU-a": 1.0, "pACC": 50.0}})
    logger.removeHandler(handler)
    assert lines == ["copypaste: Task: sem_seg", "copypaste: mIoU,pACC", "copypaste: 12.3457,50.0000"]

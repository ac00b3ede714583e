"""The embedded host's evaluation and checkpoint reading."""

from __future__ import annotations

import logging
import math
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rc2l_d2.host.embedded.catalog import DatasetCatalog, MetadataCatalog
from rc2l_d2.host.embedded.checkpoint import DetectionCheckpointer
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


class Segmentor(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "res2": nn.ModuleDict({"stem": nn.Linear(2, 2)})})
        self.head = nn.Linear(2, 3)


ZOO = {
    "stem.weight": np.full((2, 2), 1, dtype=np.float32),
    "stem.bias": np.full(2, 2, dtype=np.float32),
    "res2.stem.weight": np.full((2, 2), 3, dtype=np.float32),
    "res2.stem.bias": np.full(3, 4, dtype=np.float32),  # another shape
    "fc.weight": np.zeros((5, 2), dtype=np.float32),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("extra", [{}, {"matching_heuristics": True, "__author__": "torchvision"}])
def test_zoo_names_are_matched_by_the_longest_suffix(tmp_path, protocol, extra):
    path = tmp_path / "R-18.pkl"
    scalar = {"epoch": np.float64(3), "tags": {"a"}}
    path.write_bytes(pickle.dumps({"model": dict(ZOO), **scalar, **extra}, protocol=protocol))
    model = Segmentor()
    head, bias = model.head.weight.clone(), model.backbone["res2"]["stem"].bias.clone()
    rest = DetectionCheckpointer(model).load(str(path))
    assert rest["epoch"] == 3
    assert (model.backbone["stem"].weight == 1).all() and (model.backbone["stem"].bias == 2).all()
    assert (model.backbone["res2"]["stem"].weight == 3).all()
    assert torch.equal(model.backbone["res2"]["stem"].bias, bias) and torch.equal(model.head.weight, head)


def test_full_names_are_taken_as_they_are(tmp_path):
    """A weight "bias" is not spread over everything that ends in ".bias" where other names are the model's own."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"backbone.stem.bias": np.ones(2, "f4"), "bias": np.ones(3, "f4")}}))
    model = Segmentor()
    head = model.head.bias.clone()
    DetectionCheckpointer(model).load(str(path))
    assert (model.backbone["stem"].bias == 1).all() and torch.equal(model.head.bias, head)


def test_one_weight_for_two_parameters_is_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.weight": np.ones((2, 2), "f4")}}))
    with pytest.raises(ValueError, match="stem.weight fits backbone.res2.stem.weight and backbone.stem.weight"):
        DetectionCheckpointer(Segmentor()).load(str(path))


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_hostile_files_are_refused_unrun(tmp_path, suffix):
    path, sign = tmp_path / f"a.{suffix}", tmp_path / "ran"
    content = {"model": {"head.bias": Hostile(str(sign))}}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read as a checkpoint"):
        DetectionCheckpointer(Segmentor()).load(str(path))
    assert not sign.exists()


def test_what_is_no_checkpoint_is_said_so(tmp_path):
    load = DetectionCheckpointer(Segmentor()).load
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="text.pth cannot be read as a checkpoint"):
        load(str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth is not a checkpoint: it holds a list"):
        load(str(tmp_path / "list.pth"))
    (tmp_path / "caffe.pkl").write_bytes(pickle.dumps({"res2_0_branch2a_w": np.zeros(1)}))
    with pytest.raises(ValueError, match="caffe.pkl has Caffe2's parameter names"):
        load(str(tmp_path / "caffe.pkl"))
    with pytest.raises(AssertionError, match="missing.pth not found"):
        load(str(tmp_path / "missing.pth"))
    model = Segmentor()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    other = Segmentor()
    DetectionCheckpointer(other).load(str(tmp_path / "bare.pth"))
    assert torch.equal(other.head.weight, model.head.weight)

"""SemanticEvaluator: label files, label maps, errors, and two ranks."""

import json

import numpy as np
import pytest
import torch
from conftest import launch_ranks
from PIL import Image
from torch import nn

from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import SemanticEvaluator
from rc2l_d2.host import HOST, DatasetCatalog, MetadataCatalog, comm, inference_on_dataset

CLASSES = ["a", "b", "c"]
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255], [0, 0, 255, 255]], dtype=np.uint8)
PREDICTION = np.array([[0, 0, 1, 0], [0, 2, 1, 2], [0, 0, 1, 0]])


@pytest.fixture
def register(tmp_path):
    """Register one image with this label file and these further keys; returns name and sample."""

    def make(label: Image.Image, classes=CLASSES, **keys):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        label.save(file)
        name = f"evaluator_{tmp_path.name}_{file.stem}"
        sample = {"file_name": f"{name}.jpg", "sem_seg_file_name": str(file), **keys}
        DatasetCatalog.register(name, lambda: [sample])
        MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=255)
        return name, sample

    return make


def palette_label(values: np.ndarray) -> Image.Image:
    label = Image.fromarray(values)
    label.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200] + [0] * 759)
    return label


def scores(prediction, num_classes=3):
    return nn.functional.one_hot(torch.as_tensor(prediction).long(), num_classes).permute(2, 0, 1).float()


def evaluate(name, sample, prediction=PREDICTION):
    evaluator = SemanticEvaluator(name)
    return inference_on_dataset(lambda _: [{"sem_seg": scores(prediction)}], [[sample]], evaluator)["sem_seg"]


def test_counts_of_palette_labels_add_up_until_reset(register):
    name, sample = register(palette_label(TRUTH))
    evaluator = SemanticEvaluator(name)
    for prediction, correct in ((np.where(TRUTH == 255, 0, TRUTH), 9), (PREDICTION, 9 + 7)):  # of 9 pixels each
        evaluator.process([sample], [{"sem_seg": scores(prediction)}])
        total = 9 if correct == 9 else 18
        assert evaluator.evaluate()["sem_seg"]["pACC"] == pytest.approx(100 * correct / total)
    evaluator.reset()
    evaluator.process([sample], [{"sem_seg": scores(PREDICTION)}])
    metrics = evaluator.evaluate()["sem_seg"]
    # See test_metrics.py: c is predicted once and absent from the ground truth.
    assert metrics["mIoU"] == pytest.approx(100 * (5 / 7 + 2 / 3) / 3)
    assert metrics["mIoU_gt"] == pytest.approx(100 * (5 / 7 + 2 / 3) / 2)
    assert metrics["pACC"] == pytest.approx(100 * 7 / 9)
    assert ("mIoU_detectron2" in metrics) == (HOST == "detectron2")
    assert metrics.get("mIoU_detectron2", metrics["mIoU_gt"]) == pytest.approx(metrics["mIoU_gt"], rel=1e-12)


def test_labels_go_through_their_map_and_the_log_gets_the_iou_of_each_class(register, caplog):
    raw = {0: "ignore", 7: "a", 8: "b", 300: "c"}
    label_map = LabelMap.from_yaml(raw, CLASSES, [(0, 0, 0), (1, 0, 0), (2, 0, 0)], 255)
    values = np.array([[0, 7, 8, 300]], dtype=np.uint16)
    name, sample = register(Image.fromarray(values), label_map=label_map)
    with caplog.at_level("INFO", logger="rc2l_d2.evaluation"):
        metrics = evaluate(name, sample, np.array([[0, 0, 1, 1]]))
    assert "IoU: a 100.0, b 50.0, c 0.0" in caplog.messages
    assert (metrics["IoU-a"], metrics["IoU-b"], metrics["IoU-c"]) == (100, 50, 0)
    if HOST == "detectron2":
        assert metrics["mIoU_detectron2"] == pytest.approx(metrics["mIoU_gt"], rel=1e-12) == 50


def test_errors_name_the_file(register):
    name, sample = register(palette_label(TRUTH))
    with pytest.raises(InputError, match=r"0\.png: the label is 4x3 pixels, its image .* 4x2"):
        evaluate(name, sample, PREDICTION[:2])
    with pytest.raises(InputError, match="has no label; .*DATASETS.TEST"):
        evaluate(name, {"file_name": "x.jpg"})
    name, sample = register(palette_label(TRUTH), classes=["a"])
    with pytest.raises(InputError, match="NUM_CLASSES is 3, but .* has 1 classes;"):
        evaluate(name, sample)
    name, sample = register(palette_label(np.where(TRUTH == 1, 10, TRUTH).astype(np.uint8)))
    with pytest.raises(InputError, match=r"2\.png: the label has values that are no class \(0 to 2\).*: 10;"):
        evaluate(name, sample)
    MetadataCatalog.remove(name)
    with pytest.raises(InputError, match="no stuff_classes or no ignore_label"):
        SemanticEvaluator(name)


class Brightness(nn.Module):
    """Predicts one of eight classes by the brightness of a pixel, and counts its inputs."""

    inputs = 0

    def forward(self, batched_inputs):
        self.inputs += len(batched_inputs)
        return [{"sem_seg": scores(sample["image"].float().mean(dim=0).div(32).long(), 8)} for sample in batched_inputs]


def evaluate_on_rank(options: list[str], folder: str) -> None:
    results = RC2LTrainer.test(load_config("configs/toy/rc2l_R18.yaml", options), Brightness(), Brightness())
    with open(f"{folder}/rank{comm.get_rank()}of{comm.get_world_size()}.json", "w") as file:
        json.dump(results, file)


def test_windows_and_augmentation_reach_the_evaluation(tiny_options):
    """Windows and flips do not change the predictions of a model that classifies each pixel by itself."""
    plain = RC2LTrainer.test(load_config("configs/toy/supervised_R18.yaml", tiny_options), Brightness())["sem_seg"]
    options = (
        "TEST.SLIDING_WINDOW.ENABLED", "True", "TEST.SLIDING_WINDOW.CROP_SIZE", "(32,48)",
        "TEST.SLIDING_WINDOW.STRIDE", "(32,40)", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(0,)",
    )  # fmt: skip
    cfg, model = load_config("configs/toy/supervised_R18.yaml", [*tiny_options, *options]), Brightness()
    assert RC2LTrainer.test(cfg, model)["sem_seg"] == pytest.approx(plain, rel=0, abs=0, nan_ok=True)
    assert model.inputs == 6 * 2 * 4, "images, flips, windows"


@pytest.mark.slow
def test_two_ranks_give_the_metrics_of_one(tiny_options, tmp_path):
    options = [*tiny_options, "DATASETS.TEST", "('tiny_five',)"]  # three images for one rank, two for the other
    evaluate_on_rank(options, str(tmp_path))
    launch_ranks(evaluate_on_rank, 2, options, str(tmp_path))
    alone, first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in ("0of1", "0of2", "1of2"))
    assert set(alone) == {"sem_seg", "sem_seg_teacher"} and 0 < alone["sem_seg"]["mIoU"] < 100
    for task, metrics in alone.items():
        assert first[task] == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)
    assert second == {}

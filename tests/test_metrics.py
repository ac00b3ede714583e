"""Metrics from a confusion matrix, against hand-computed numbers and confusion matrices against NumPy."""

import math

import numpy as np
import pytest
import torch

from rc2l_d2.evaluation import confusion_matrix, semantic_metrics

# 255 is ignored. Class c is predicted but never true; class d is nowhere.
TRUTH = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255], [0, 0, 255, 255]], dtype=torch.uint8)
PREDICTION = torch.tensor([[0, 0, 1, 0], [0, 2, 1, 2], [0, 0, 1, 0]])


def test_metrics_of_a_hand_made_example():
    confusion = confusion_matrix(PREDICTION, TRUTH, 4, 255)
    assert confusion.tolist() == [[5, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    metrics = semantic_metrics(confusion, "abcd")
    # 9 pixels count. a: 6 in truth, 5 of them found, 6 predicted. b: 3, 2, 2. c: none, predicted once.
    iou_a, iou_b = 5 / 7, 2 / 3
    expected = {
        "mIoU": (iou_a + iou_b + 0) / 3, "mIoU_gt": (iou_a + iou_b) / 2, "fwIoU": (6 * iou_a + 3 * iou_b) / 9,
        "IoU-a": iou_a, "IoU-b": iou_b, "IoU-c": 0, "IoU-d": math.nan, "mACC": (5 / 6 + 2 / 3) / 2, "pACC": 7 / 9,
        "ACC-a": 5 / 6, "ACC-b": 2 / 3, "ACC-c": math.nan, "ACC-d": math.nan,
    }  # fmt: skip
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx({name: 100 * value for name, value in expected.items()}, nan_ok=True)


@pytest.mark.parametrize("seed", range(8))
def test_random_maps_give_numpys_histogram(seed):
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 22))
    # Some classes are in neither map, some in one of them.
    in_truth, predicted = (rng.choice(num_classes, int(rng.integers(1, num_classes + 1))) for _ in range(2))
    truth = rng.choice([*in_truth, 255], (2, 40, 30)).astype(np.uint8)
    prediction = rng.choice(predicted, truth.shape)
    confusion = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), num_classes, 255)
    counted = truth != 255
    expected = np.histogram2d(prediction[counted], truth[counted], num_classes, [[0, num_classes]] * 2)[0]
    assert (confusion.numpy() == expected).all()


def test_metrics_of_no_pixel_are_nan():
    confusion = confusion_matrix(torch.zeros(4), torch.full((4,), 2, dtype=torch.uint8), 2, 2)
    assert confusion.dtype == torch.int64 and not confusion.any()
    assert all(math.isnan(value) for value in semantic_metrics(confusion, "ab").values())


def test_counts_beyond_float32_are_exact():
    metrics = semantic_metrics(torch.tensor([[2**24 + 1, 0], [1, 1]]), "ab")
    assert metrics["IoU-a"] == 100 * (2**24 + 1) / (2**24 + 2)

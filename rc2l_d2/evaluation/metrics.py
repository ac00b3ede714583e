"""Metrics of semantic segmentation: confusion matrix, IoU and accuracy.

Two means over classes are in use. They differ if a class is predicted but absent from the ground truth, which does not
happen on the usual validation sets:

- ``mIoU``, to compare with published tables: the mean over classes in the prediction or in the ground truth; a class
  that is only predicted counts as 0. Detectron2 v0.6 computes the same. Code that averages over all classes, such as
  UniMatch's, differs from it if a class is in neither (it counts as 0 there).
- ``mIoU_gt``: the mean over classes in the ground truth, Detectron2's ``mIoU`` at its head of 2026.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int, ignore_value: int) -> Tensor:
    """Count pixels by predicted and true class, on the device of the arguments.

    Args:
        prediction: integers of any type and shape, 0 to K - 1.
        truth: integers of the same shape, 0 to K - 1, or ``ignore_value`` where nothing is counted.
        num_classes: K.

    Returns:
        int64 (K, K): [predicted, ground truth].
    """
    # Ignored pixels are counted in an extra column, which is cheaper than selecting the others first.
    column = torch.where(truth == ignore_value, num_classes, truth.long())
    index = prediction.long() * (num_classes + 1) + column
    counts = torch.bincount(index.flatten(), minlength=num_classes * (num_classes + 1))
    return counts.view(num_classes, num_classes + 1)[:, :num_classes]


def semantic_metrics(confusion: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Return metrics in percent, under Detectron2's names and in its order.

    Args:
        confusion: (K, K) pixel counts [predicted, ground truth] over all images.
        class_names: K names.

    Returns:
        ``mIoU`` and ``mIoU_gt``: see the module's docstring.
        ``fwIoU``: mean IoU weighted by the classes' pixels in the ground truth.
        ``IoU-<class>``: intersection over union; 0 for a class that is only predicted (NaN in Detectron2 at head), NaN
        for a class in neither.
        ``mACC``, ``pACC``, ``ACC-<class>``: fraction of ground-truth pixels with a correct prediction: mean over the
        classes in the ground truth, over all pixels, of each class (NaN if it is not in the ground truth).
        All are NaN if no pixel was counted.
    """
    counts = confusion.cpu().double()
    correct, predicted, in_truth = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    # A class without pixels gets 0 / 0 = NaN.
    iou = 100 * correct / (predicted + in_truth - correct)
    accuracy = 100 * correct / in_truth
    present = in_truth > 0
    metrics = {
        "mIoU": iou.nanmean(),
        "mIoU_gt": iou[present].mean(),
        "fwIoU": (iou * in_truth)[present].sum() / in_truth.sum(),
        **{f"IoU-{name}": value for name, value in zip(class_names, iou, strict=True)},
        "mACC": accuracy[present].mean(),
        "pACC": 100 * correct.sum() / in_truth.sum(),
        **{f"ACC-{name}": value for name, value in zip(class_names, accuracy, strict=True)},
    }
    return {name: value.item() for name, value in metrics.items()}

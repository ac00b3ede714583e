"""The metrics of semantic segmentation as plain functions: pixels to a confusion matrix, a matrix to percent.

Two conventions of the mean over classes are in use, and they differ where a class is predicted somewhere but absent
from the whole ground truth:

- ``mIoU``, the one to compare with published tables: the mean over all classes that occur in the prediction or in the
  ground truth; a class that is only predicted counts with 0. Code of the field that averages over all classes, as
  UniMatch's, differs from it only where a class is nowhere at all (there it counts with 0). Detectron2 did the same up
  to its release v0.6.
- ``mIoU_gt``: the mean over classes of the ground truth alone. It is Detectron2's ``mIoU`` at its head of 2026.

On the usual validation sets every class is in the ground truth, and the two are one number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int, ignore_value: int) -> Tensor:
    """Count pixels by what they were predicted to be and what they are; on the device of the arguments.

    Args:
        prediction: integers of any type and shape, each from 0 to K - 1.
        truth: as many integers in the same shape, each from 0 to K - 1 or ``ignore_value``.
        num_classes: K.
        ignore_value: ground truth that counts nowhere.

    Returns:
        int64 (K, K): [predicted, ground truth].
    """
    # Ignored pixels are counted in a column of their own, which is cheaper than taking them out first.
    column = torch.where(truth == ignore_value, num_classes, truth.long())
    index = prediction.long() * (num_classes + 1) + column
    counts = torch.bincount(index.flatten(), minlength=num_classes * (num_classes + 1))
    return counts.view(num_classes, num_classes + 1)[:, :num_classes]


def semantic_metrics(confusion: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Metrics in percent, under Detectron2's names and in its order.

    Args:
        confusion: (K, K) pixel counts [predicted, ground truth] over all images.
        class_names: K names.

    Returns:
        ``mIoU`` and ``mIoU_gt``: see above.
        ``fwIoU``: IoU weighted by the classes' pixels in the ground truth.
        ``IoU-<class>``: intersection over union; 0 for a class that is only predicted (where Detectron2 at head says
        NaN), NaN for one that is nowhere.
        ``mACC``, ``pACC``, ``ACC-<class>``: share of ground-truth pixels that are found, as a mean over the classes of
        the ground truth, over all pixels, and of each class (NaN if it is not in the ground truth).
        All are NaN where nothing was counted.
    """
    counts = confusion.cpu().double()
    correct, predicted, in_truth = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    # 0 / 0 is NaN, which is what a class without pixels is to have.
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

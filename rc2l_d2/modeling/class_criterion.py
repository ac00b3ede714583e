"""The supervised loss of class queries: query k is matched to class k in every image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..regions import Regions, batch_mean
from .criterion import Criterion

# Fraction of a query's target that is spread over all classes: a few labelled regions are soon overfitted.
_SMOOTHING = 0.05


class ClassCriterion(Criterion):
    """Match query k to class k (``MATCHING: class``, our reading); there are as many queries as classes.

    No assignment problem is solved, and every shape is fixed. Masks are compared on the mask grid, with the fraction
    t_c(x) of the pixels of a mask pixel that are labelled c. Means run over all ranks.

        loss_ce    cross-entropy of the class of query k where the image has class k, smoothed
        loss_mask  cross-entropy of the competing masks: -sum_c t_c(x) log sigma(m_c(x)), mean over labelled pixels
        loss_dice  Dice loss of m_c and t_c, mean over the classes that the images have
    """

    loss_weights = {"loss_ce": 1.0, "loss_mask": 1.0, "loss_dice": 1.0}

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        valid = self.valid(labels)
        fractions = class_fractions(labels.long().masked_fill(~valid, self.num_classes), self.num_classes, regions)
        cross_entropy, dice = mask_losses(regions.mask_logits.float(), fractions)
        inside = fractions.sum(dim=(2, 3))
        present = inside > 0
        log_class = regions.class_logits[..., :-1].float().log_softmax(dim=-1)
        own_class = log_class.diagonal(dim1=1, dim2=2)
        class_loss = -(1 - _SMOOTHING) * own_class - _SMOOTHING * log_class.mean(dim=-1)
        return {
            "loss_ce": batch_mean((class_loss * present).sum(), present.sum()),
            "loss_mask": batch_mean(cross_entropy.sum(), inside.sum()),
            "loss_dice": batch_mean((dice * present).sum(), present.sum()),
        }


def class_fractions(slots: Tensor, num_classes: int, regions: Regions) -> Tensor:
    """Return the fraction of each mask pixel that is labelled with each class, (B, K, h, w) float32.

    Args:
        slots: (B, H, W) long, labels with K in place of values that are no class.
        num_classes: K.
        regions: the prediction, whose masks are (h, w).
    """
    height, width = regions.mask_logits.shape[-2:]
    # The label is padded where the mask grid is a little larger than the image.
    rows, columns = -(-slots.shape[-2] // height), -(-slots.shape[-1] // width)
    padding = (0, width * columns - slots.shape[-1], 0, height * rows - slots.shape[-2])
    blocks = F.pad(slots, padding, value=num_classes).view(-1, height, rows, width, columns)
    blocks = blocks.transpose(2, 3).flatten(3)  # (B, h, w, pixels of a mask pixel)
    counts = torch.zeros(*blocks.shape[:3], num_classes + 1, device=slots.device)
    counts.scatter_add_(3, blocks, torch.ones_like(blocks, dtype=counts.dtype))
    return counts[..., :-1].permute(0, 3, 1, 2) / (rows * columns)


def mask_losses(mask_logits: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each mask, a sum over mask pixels, and its Dice loss.

    Args:
        mask_logits: (B, K, h, w), of query k for class k.
        fractions: (B, K, h, w), t.

    Returns:
        (B, K) and (B, K).
    """
    labelled = fractions.sum(dim=1, keepdim=True).flatten(2)  # (B, 1, h * w)
    logits, inside = mask_logits.flatten(2), fractions.flatten(2)
    masks = logits.sigmoid()
    # Autocast would run the products in half precision.
    with torch.autocast(logits.device.type, enabled=False):
        cross_entropy = torch.linalg.vecdot(inside, F.softplus(-logits))
        intersection, area = torch.linalg.vecdot(masks, inside), torch.linalg.vecdot(masks, labelled)
    dice = 1 - (2 * intersection + 1) / (area + inside.sum(dim=2) + 1)
    return cross_entropy, dice

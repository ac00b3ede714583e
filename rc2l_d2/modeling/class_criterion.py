"""The supervised loss of class queries: query k is matched to class k in every image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..regions import Regions, mean_over_ranks
from ..regions.ranks import world_size
from .criterion import FOCAL_ALPHA, QueryCriterion, layers_with_suffixes


class ClassCriterion(QueryCriterion):
    """Match query k to class k (``MATCHING: class``, our reading); there are as many queries as classes.

    No assignment problem is solved: every shape is fixed, and absent classes have weight zero in the mask losses. Masks
    are compared on the mask grid with the fraction of each class among the labelled pixels of a mask pixel.
    """

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        valid = self.valid(labels)
        fractions = class_fractions(labels.long().masked_fill(~valid, self.num_classes), self.num_classes, regions)
        present = self.present(labels, valid)
        num_masks = mean_over_ranks(present.sum().float()).clamp(min=1 / world_size())
        queries = torch.arange(self.num_classes, device=labels.device)
        target = torch.where(present, queries, self.num_classes)
        losses = {}
        for suffix, class_logits, mask_logits in layers_with_suffixes(regions):
            focal, dice = soft_mask_losses(mask_logits.float(), fractions)
            losses["loss_ce" + suffix] = self.class_loss(class_logits, target)
            losses["loss_mask" + suffix] = self.mask_weight * (focal * present).sum() / num_masks
            losses["loss_dice" + suffix] = self.dice_weight * (dice * present).sum() / num_masks
        return losses


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


def soft_mask_losses(mask_logits: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Return focal loss (mean over labelled pixels) and Dice loss of the mask of each class.

    Both are those of :func:`.set_criterion.mask_losses` for masks that are constant on each mask pixel: sums over the
    pixels of the image become sums over mask pixels, weighted by the fraction t of the class or w - t of other classes.

    Args:
        mask_logits: (B, K, h, w), of query k for class k.
        fractions: (B, K, h, w), t.

    Returns:
        (B, K) and (B, K).
    """
    labelled = fractions.sum(dim=1, keepdim=True).flatten(2)  # w, (B, 1, h * w)
    logits, inside = mask_logits.flatten(2), fractions.flatten(2)
    masks, softplus = logits.sigmoid(), F.softplus(logits)
    # Autocast would run the products in half precision.
    with torch.autocast(logits.device.type, enabled=False):
        focal = torch.linalg.vecdot(FOCAL_ALPHA * inside, (1 - masks).square() * (softplus - logits))
        focal = focal + torch.linalg.vecdot((1 - FOCAL_ALPHA) * (labelled - inside), masks.square() * softplus)
        intersection, area = torch.linalg.vecdot(masks, inside), torch.linalg.vecdot(masks, labelled)
    count = labelled.sum(dim=2)
    dice = 1 - (2 * intersection + 1) / (area + inside.sum(dim=2) + 1)
    return focal / count.clamp(min=torch.finfo(count.dtype).tiny), dice

"""MaskFormer's set loss: Hungarian matching, then class, focal and Dice loss on the matched pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..regions import PseudoRegions, Regions, mean_over_ranks, one_hot
from ..regions.ranks import world_size
from .criterion import FOCAL_ALPHA, QueryCriterion, layers_with_suffixes
from .hungarian import assign_regions, hungarian_match, matching_cost


class SetCriterion(QueryCriterion):
    """Match by MaskFormer's assignment (``MATCHING: hungarian``), which copies its costs to the host at each step.

    Mask logits (h, w) are resized bilinearly to the labels.
    """

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        layers = layers_with_suffixes(regions)
        valid = self.valid(labels)
        present = self.present(labels, valid)
        pairs = self._match(layers, labels, present)
        num_masks = mean_over_ranks(present.sum().float()).clamp(min=1 / world_size())
        losses = {}
        for (suffix, class_logits, mask_logits), (image, query, label) in zip(layers, pairs, strict=True):
            target = torch.full(class_logits.shape[:2], self.num_classes, device=class_logits.device)
            target[image, query] = label
            masks = mask_logits[image, query].float()
            focal, dice = mask_losses(masks, labels[image] == label[:, None, None], valid[image])
            losses["loss_ce" + suffix] = self.class_loss(class_logits, target)
            losses["loss_mask" + suffix] = self.mask_weight * focal.sum() / num_masks
            losses["loss_dice" + suffix] = self.dice_weight * dice.sum() / num_masks
        return losses

    def match_regions(self, regions: Regions, pseudo: PseudoRegions) -> Tensor:
        return assign_regions(regions, pseudo, self.mask_weight, self.dice_weight)

    def _match(self, layers: list[tuple[str, Tensor, Tensor]], labels: Tensor, present: Tensor) -> Tensor:
        """Match at the resolution of the masks; returns (L, 3, M), see :func:`hungarian_match`."""
        size = layers[-1][-1].shape[-2:]
        small = F.interpolate(labels[:, None].float(), size=size, mode="nearest")  # (B, 1, h, w)
        valid = self.valid(small)
        targets = one_hot(small[:, 0], self.num_classes) & valid
        costs = [
            matching_cost(class_logits, mask_logits, targets, valid[:, 0], self.mask_weight, self.dice_weight)
            for _, class_logits, mask_logits in layers
        ]
        return hungarian_match(torch.stack(costs), present)


def mask_losses(mask_logits: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return focal loss (mean over valid pixels) and Dice loss of pairs of masks.

    Focal: alpha_t (1 - p_t)^2 (-log p_t), alpha 0.25 inside; 1 - p_t = |p - t| and -log p_t = softplus(x) - t x.
    Dice: 1 - (2 sum(p t) + 1) / (sum p + sum t + 1).

    Args:
        mask_logits: (M, h, w), resized to the targets bilinearly.
        targets: (M, H, W) bool.
        valid: (M, H, W) bool; other pixels are left out.

    Returns:
        (M,) and (M,).
    """
    # Resized as M channels of one image: the backward pass of M images takes twice as long. M may be 0, channels not.
    side = 0 if len(mask_logits) else 1
    logits = F.interpolate(mask_logits.unsqueeze(side), size=targets.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits.squeeze(side).flatten(1)
    known = valid.flatten(1).to(logits.dtype)
    inside = targets.flatten(1) * known
    masks = logits.sigmoid()
    cross_entropy = F.softplus(logits) - inside * logits
    weights = FOCAL_ALPHA * inside + (1 - FOCAL_ALPHA) * (known - inside)
    # Autocast would run the products in half precision.
    with torch.autocast(logits.device.type, enabled=False):
        focal = torch.linalg.vecdot(weights * cross_entropy, (masks - inside).square()) / known.sum(1).clamp(min=1)
        intersection, area = torch.linalg.vecdot(masks, inside), torch.linalg.vecdot(masks, known)
    return focal, 1 - (2 * intersection + 1) / (area + inside.sum(1) + 1)

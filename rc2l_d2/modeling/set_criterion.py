"""MaskFormer's set loss: Hungarian matching, then class, focal and Dice loss on the matched pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..regions import PseudoRegions, Regions, batch_mean, mean_over_ranks, one_hot
from ..regions.ranks import world_size
from .criterion import Criterion
from .hungarian import FOCAL_ALPHA, assign_regions, hungarian_match, matching_cost


class SetCriterion(Criterion):
    """MaskFormer's supervised loss (``MATCHING: hungarian``), whose assignment copies its costs to the host each step.

    An image has one target for each class in its labels: the mask of that class. Each query has a class loss, matched
    queries a focal and a Dice loss of their masks, whose logits (h, w) are resized bilinearly to the labels. These two
    are sums over matched pairs, divided by the mean number of targets per rank. :meth:`forward` returns ``loss_ce``,
    ``loss_mask`` and ``loss_dice`` of the last layer and the same with suffix ``_0``, ``_1``, ... of the earlier ones.

    Buffers:
        empty_weight: (K+1,), class weights of the classification loss; the last is that of "no object".
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_value: int = 255,
        no_object_weight: float = 0.1,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
    ):
        super().__init__(num_classes, ignore_value=ignore_value)
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.loss_weights = {"loss_ce": 1.0, "loss_mask": mask_weight, "loss_dice": dice_weight}
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        layers = _layers_with_suffixes(regions)
        valid = self.valid(labels)
        present = self._present(labels, valid)
        pairs = self._match(layers, labels, present)
        num_masks = mean_over_ranks(present.sum().float()).clamp(min=1 / world_size())
        losses = {}
        for (suffix, class_logits, mask_logits), (image, query, label) in zip(layers, pairs, strict=True):
            target = torch.full(class_logits.shape[:2], self.num_classes, device=class_logits.device)
            target[image, query] = label
            masks = mask_logits[image, query].float()
            focal, dice = mask_losses(masks, labels[image] == label[:, None, None], valid[image])
            losses["loss_ce" + suffix] = self._class_loss(class_logits, target)
            losses["loss_mask" + suffix] = self.mask_weight * focal.sum() / num_masks
            losses["loss_dice" + suffix] = self.dice_weight * dice.sum() / num_masks
        return losses

    def match_regions(self, regions: Regions, pseudo: PseudoRegions) -> Tensor:
        return assign_regions(regions, pseudo, self.mask_weight, self.dice_weight)

    def _present(self, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the classes in the labels (B, H, W) of each image, (B, K) bool."""
        slots = labels.long().masked_fill(~valid, self.num_classes).flatten(1)
        present = torch.zeros(len(labels), self.num_classes + 1, dtype=torch.bool, device=labels.device)
        return present.scatter_(1, slots, True)[:, :-1]

    def _class_loss(self, class_logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy over all queries of all ranks.

        Args:
            class_logits: (B, N, K+1).
            target: (B, N) long, the class of each query; K, "no object", for an unmatched one.
        """
        loss = F.cross_entropy(class_logits.float().flatten(0, 1), target.flatten(), self.empty_weight, reduction="sum")
        # The sum of weights is zero if the "no object" weight is and no query is matched.
        return batch_mean(loss, self.empty_weight[target].sum())

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


def _layers_with_suffixes(regions: Regions) -> list[tuple[str, Tensor, Tensor]]:
    """Return (suffix of the loss names, class logits, mask logits) of each decoder layer, first layer first."""
    earlier = [(f"_{index}", *layer) for index, layer in enumerate(regions.auxiliary)]
    return [*earlier, ("", regions.class_logits, regions.mask_logits)]

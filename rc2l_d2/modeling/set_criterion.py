"""The supervised loss of the region predictor: MaskFormer's set loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..regions import Regions, mean_over_ranks, one_hot
from ..regions.ranks import world_size
from .hungarian import FOCAL_ALPHA, hungarian_match, matching_cost


class SetCriterion(nn.Module):
    """MaskFormer's set loss: match queries to the classes of an image, then class, focal and Dice loss on the pairs.

    An image has one target for each class in its labels: the binary mask of that class.

    Our reading: matching, focal and Dice loss leave out pixels without a label (the ignore value, also on padding, and
    any value outside 0, ..., K-1). MaskFormer counts them as outside of every mask. Without such pixels both are equal.

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
        super().__init__()
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, for each decoder layer.

        Args:
            regions: of B images; the layers in ``regions.auxiliary`` get losses too.
            labels: (B, H, W), integer, at the size of the images; masks (h, w) are resized to it bilinearly.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last layer and the same with suffix ``_0``, ``_1``, ... of
            the earlier ones, float32 scalars, already multiplied by their weights. Mask losses are sums over matched
            pairs, divided by the mean number of targets per rank. Without any labelled pixel they are zero and still
            have a graph.
        """
        layers = [*regions.auxiliary, (regions.class_logits, regions.mask_logits)]
        suffixes = [*(f"_{i}" for i in range(len(layers) - 1)), ""]
        valid = self._valid(labels)
        present = self._present(labels, valid)
        pairs = self._match(layers, labels, present)
        num_masks = mean_over_ranks(present.sum().float()).clamp(min=1 / world_size())
        losses = {}
        for (class_logits, mask_logits), layer_pairs, suffix in zip(layers, pairs, suffixes, strict=True):
            image, query, label = layer_pairs
            masks = mask_logits[image, query].float()
            focal, dice = mask_losses(masks, labels[image] == label[:, None, None], valid[image])
            losses["loss_ce" + suffix] = self._class_loss(class_logits.float(), layer_pairs)
            losses["loss_mask" + suffix] = self.mask_weight * focal.sum() / num_masks
            losses["loss_dice" + suffix] = self.dice_weight * dice.sum() / num_masks
        return losses

    def _valid(self, labels: Tensor) -> Tensor:
        return (labels != self.ignore_value) & (labels >= 0) & (labels < self.num_classes)

    def _present(self, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the classes in the labels of each image, (B, K) bool."""
        slots = labels.long().masked_fill(~valid, self.num_classes).flatten(1)
        present = torch.zeros(len(labels), self.num_classes + 1, dtype=torch.bool, device=labels.device)
        return present.scatter_(1, slots, True)[:, :-1]

    def _match(self, layers: list[tuple[Tensor, Tensor]], labels: Tensor, present: Tensor) -> Tensor:
        """Match at the resolution of the masks; returns (L, 3, M), see :func:`hungarian_match`."""
        size = layers[-1][1].shape[-2:]
        small = F.interpolate(labels[:, None].float(), size=size, mode="nearest")  # (B, 1, h, w)
        valid = self._valid(small)
        targets = one_hot(small[:, 0], self.num_classes) & valid
        costs = [
            matching_cost(class_logits, mask_logits, targets, valid[:, 0], self.mask_weight, self.dice_weight)
            for class_logits, mask_logits in layers
        ]
        return hungarian_match(torch.stack(costs), present)

    def _class_loss(self, class_logits: Tensor, pairs: Tensor) -> Tensor:
        """Weighted cross-entropy over all queries of all ranks; the target of unmatched ones is "no object"."""
        image, query, label = pairs
        target = torch.full(class_logits.shape[:2], self.num_classes, device=class_logits.device)
        target[image, query] = label
        loss = F.cross_entropy(class_logits.flatten(0, 1), target.flatten(), self.empty_weight, reduction="sum")
        # The sum of weights is zero if the "no object" weight is and no query is matched.
        return loss / mean_over_ranks(self.empty_weight[target].sum()).clamp(min=1e-6)


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

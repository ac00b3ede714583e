"""Hungarian matching of queries and regions (MaskFormer), for the supervised loss and as a baseline in RC2L."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..regions.types import PseudoRegions, Regions

# Replaces a non-finite cost, on which scipy would raise; the trainer reports the non-finite loss.
_UNKNOWN_COST = 1e6

# Focal loss: weight of pixels inside the region; the exponent is 2 (MaskFormer's values).
FOCAL_ALPHA = 0.25


@torch.no_grad()
def matching_cost(
    class_logits: Tensor, mask_logits: Tensor, targets: Tensor, valid: Tensor, mask_weight: float, dice_weight: float
) -> Tensor:
    """Cost of assigning region c to query i: -P_i(c) + mask_weight * focal + dice_weight * Dice.

    MaskFormer's matching cost with one target per class slot. Invalid pixels are left out of both mask terms (our
    reading: MaskFormer counts them as outside of every region).

    Args:
        class_logits: (B, N, K+1).
        mask_logits: (B, N, h, w).
        targets: (B, K, h, w), 1 where the region of class c is, all zero where the image has none.
        valid: (B, h, w), 1 where the label is known.

    Returns:
        (B, N, K), float32, finite.
    """
    # Autocast would run the matrix products in half precision.
    with torch.autocast(mask_logits.device.type, enabled=False):
        logits = mask_logits.float().flatten(2)
        # The last column holds all valid pixels.
        columns = torch.cat([targets.flatten(2), valid.flatten(1)[:, None]], dim=1).float().transpose(1, 2)
        areas = columns.sum(1, keepdim=True)
        masks, softplus = logits.sigmoid(), F.softplus(logits)
        # In place, since memory traffic takes most of the time; this overwrites ``softplus``.
        outside = masks.square().mul_(softplus).mul_(1 - FOCAL_ALPHA)
        # Focal loss is p inside a region and n outside: sum_inside p + sum_outside n = sum_inside (p - n) + sum_all n.
        inside = (1 - masks).square_().mul_(softplus.sub_(logits)).mul_(FOCAL_ALPHA).sub_(outside)
        everywhere = outside @ columns[..., -1:]
        focal = (inside @ columns[..., :-1] + everywhere) / areas[..., -1:].clamp(min=1)
        covered = masks @ columns
        dice = 1 - (2 * covered[..., :-1] + 1) / (covered[..., -1:] + areas[..., :-1] + 1)
        probability = class_logits.float().softmax(-1)[..., :-1]
        cost = mask_weight * focal + dice_weight * dice - probability
        return cost.nan_to_num(_UNKNOWN_COST, _UNKNOWN_COST, _UNKNOWN_COST)


def hungarian_match(cost: Tensor, present: Tensor) -> Tensor:
    """Find the cheapest one-to-one assignment of each image, for each decoder layer.

    All images and layers are copied to the host together.

    Args:
        cost: (L, B, N, K), finite.
        present: (B, K) bool, classes that have a region.

    Returns:
        (L, 3, M) long, on the device of ``cost``: image, query and class of each pair. An image with R regions has
        min(N, R) pairs in every layer.
    """
    # An infinite cost marks absent classes, so that one copy to the host holds both arguments.
    table = cost.masked_fill(~present[None, :, None, :], torch.inf).cpu().numpy()
    pairs = []
    for layer in table:
        of_layer = [np.zeros((3, 0), dtype=np.int64)]
        for image, of_image in enumerate(layer):
            classes = np.flatnonzero(np.isfinite(of_image[0]))
            queries, columns = linear_sum_assignment(of_image[:, classes])
            of_layer.append(np.stack((np.full_like(queries, image), queries, classes[columns])))
        pairs.append(np.concatenate(of_layer, axis=1))
    return torch.from_numpy(np.stack(pairs)).to(cost.device, non_blocking=True)


def assign_regions(regions: Regions, pseudo: PseudoRegions, mask_weight: float, dice_weight: float) -> Tensor:
    """Assign queries to pseudo regions by MaskFormer's matching, a baseline for the match by class.

    Weights as in :func:`matching_cost`. Copies to the host.

    Returns:
        (B, N, K), float32: 1 for each of the min(N, R) pairs of an image with R regions.
    """
    cost = matching_cost(
        regions.class_logits, regions.mask_logits, pseudo.masks, pseudo.valid, mask_weight, dice_weight
    )
    image, query, label = hungarian_match(cost[None], pseudo.present)[0]
    assignment = torch.zeros_like(cost)
    assignment[image, query, label] = 1
    return assignment

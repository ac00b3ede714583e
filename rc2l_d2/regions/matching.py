"""Matching of student queries and the teacher's class slots without an assignment problem, and their similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from .semantic import at_least_float32


def match_by_class(present: Tensor) -> Tensor:
    """Match class queries: query k belongs to the region of class k, in labels and in pseudo labels (our reading).

    Args:
        present: (B, K) bool, whether slot c holds a region.

    Returns:
        (B, N, K) with N = K, float32: 1 where i = c and slot c holds a region.
    """
    return torch.diag_embed(present.float())


def soft_dice(mask_logits: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Similarity d_ic of query i's mask and region c's (our reading: soft Dice on valid pixels).

    d_ic = (2 sum_x sigma(m_i) M_c + 1) / (sum_x sigma(m_i) + sum_x M_c + 1); the ones keep empty pairs finite.

    Args:
        mask_logits: (B, N, h, w).
        masks: (B, K, h, w), 0 or 1; the teacher's, used without gradient.
        valid: (B, h, w) bool; the sums run over these pixels.

    Returns:
        (B, N, K) in (0, 1], at least float32.
    """
    predicted = at_least_float32(mask_logits).sigmoid().flatten(2)
    inside = valid.unsqueeze(1).to(predicted.dtype)
    # With ``valid`` appended as one more region, a single product gives the intersections and the areas.
    target = torch.cat([masks.detach().to(predicted.dtype) * inside, inside], dim=1).flatten(2)
    with torch.autocast(predicted.device.type, enabled=False):
        covered = (target @ predicted.transpose(1, 2)).transpose(1, 2)
    intersection, area = covered[..., :-1], covered[..., -1:]
    return (2 * intersection + 1) / (area + target[:, :-1].sum(-1).unsqueeze(1) + 1)

"""Matching of student queries and the teacher's class slots without an assignment problem.

A query belongs to class slot c with the probability that it predicts for class c. This replaces Hungarian matching by
one softmax and one batched matrix product of fixed shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .semantic import at_least_float32


def match_by_class(class_logits: Tensor, present: Tensor) -> Tensor:
    """Match queries to pseudo regions by class: weight P_i(c), zero where slot c holds no region (our reading).

    Args:
        class_logits: (B, N, K+1).
        present: (B, K) bool.

    Returns:
        (B, N, K), detached: the match is a decision, not something to optimise.
    """
    probabilities = at_least_float32(class_logits.detach()).softmax(dim=-1)[..., :-1]
    return probabilities * present.unsqueeze(1)


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

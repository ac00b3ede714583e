"""Semantic maps from regions: the class scores of each pixel, summed over the queries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` as float32, or unchanged if it is float64: the precision of all losses, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def normalised(features: Tensor) -> Tensor:
    """Divide features (..., C) by their norm, which counts as at least 1e-3.

    The bound keeps the gradient of a zero feature finite.
    """
    return F.normalize(features, dim=-1, eps=1e-3)


def most_probable(scores: Tensor, dim: int) -> Tensor:
    """Return the argmax of ``scores`` over the classes in ``dim``; the first where several are equal.

    Computed by torch's ``max``, which on a CPU is much faster than its ``argmax``.
    """
    return scores.max(dim=dim).indices


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return 1[label = c], (B, K, h, w) bool, of integer labels (B, h, w); False for labels outside 0, ..., K-1."""
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)


def competing(mask_logits: Tensor) -> Tensor:
    """Return logits of masks that compete for each pixel: their sigmoid is the softmax over queries (our reading).

    m_i(x) - log sum_{j != i} exp(m_j(x)), so that every formula of sigma(m_i) holds for competing masks too.

    Args:
        mask_logits: (B, N, h, w).

    Returns:
        (B, N, h, w), at least float32.
    """
    logits = at_least_float32(mask_logits)
    queries = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    largest = queries == most_probable(logits, dim=1).unsqueeze(1)
    total = logits.logsumexp(dim=1, keepdim=True)
    # log(sum - exp(m_i)) is exact where m_i is at most half of the sum. The largest is left out of its sum instead.
    others_of_largest = logits.masked_fill(largest, -1e4).logsumexp(dim=1, keepdim=True)
    fraction = (logits - total).exp().masked_fill(largest, 0.0)
    return logits - torch.where(largest, others_of_largest, total + torch.log1p(-fraction))


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Semantic inference, S_c(x) = sum_i softmax(class_i)_c * sigmoid(mask_i(x)) (MaskFormer, section 3.4).

    Args:
        class_logits: (B, N, K+1), "no object" last.
        mask_logits: (B, N, h, w).

    Returns:
        (B, K, h, w), at least float32. Not normalised: duplicate queries can push it above one.
    """
    class_probabilities = at_least_float32(class_logits).softmax(dim=-1)[..., :-1]
    mask_probabilities = at_least_float32(mask_logits).sigmoid()
    with torch.autocast(mask_logits.device.type, enabled=False):
        return torch.einsum("bnk,bnhw->bkhw", class_probabilities, mask_probabilities)


def semantic_probabilities(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Normalised semantic map s_c(x) = S_c(x) / sum_c S_c(x) (our reading, see docs/method.md).

    Shapes as :func:`semantic_scores`. Where no query covers a pixel, the map tends to zero for all classes.
    """
    scores = semantic_scores(class_logits, mask_logits)
    return scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-6)

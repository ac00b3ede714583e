"""The four losses of RC2L between a student's regions and a teacher's pseudo regions.

RMC  region mask contrastive       a query's mask is close to its region and far from other regions
RFC  region feature contrastive    features of one class agree across images and differ from those of other classes
RCC  region class consistency      the query of a region predicts its class
SMC  semantic mask consistency     the student's semantic map agrees with the regions, pixel by pixel and as areas

The paper names the terms; the formulas are our reading (docs/method.md). Each loss returns a scalar in at least
float32. Means over regions run over the present regions of the batch, weighted by the teacher's confidence except in
RFC. Normalisers are averaged over ranks (:func:`batch_mean`). Without any region the value is exactly zero and
still has a graph, since every rank needs a backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pseudo_labels import masked_average_pool
from .ranks import batch_mean, gather_over_ranks
from .semantic import at_least_float32, normalised
from .types import PseudoRegions

# Replaces minus infinity in logits: its exp() is 0 in every floating-point type, and its product with 0 is not NaN.
_EXCLUDED = -1e4
# Smallest probability in RCC and SMC; bounds their -log at 13.8.
_FLOOR = 1e-6


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum(values * weights) / sum(weights), or a zero with a graph if all weights are zero."""
    weights = at_least_float32(weights)
    return batch_mean((values * weights).sum(), weights.sum())


def _log_softmax_over_present(similarity: Tensor, present: Tensor) -> Tensor:
    """Log-softmax over the last dimension, restricted to the entries where ``present`` (broadcastable) is True."""
    return similarity.masked_fill(~present, _EXCLUDED).log_softmax(dim=-1)


def region_mask_contrastive(
    similarity: Tensor, match: Tensor, pseudo: PseudoRegions, temperature: float = 0.1
) -> Tensor:
    """RMC: the masks of matched queries and regions attract, those of other pairs of the image repel (our reading).

    With d_ic the soft Dice of query i and region c, the loss of a matched pair (i, c) is the mean of

        query to region:  -log softmax_c(d_ic / t), over the present regions
        region to query:  -log softmax_i(d_ic / t), over all queries

    The gradient reaches only the mask logits.

    Args:
        similarity: (B, N, K), d_ic, from :func:`rc2l_d2.regions.soft_dice`.
        match: (B, N, K), 1 for matched pairs, 0 elsewhere. Regions without a query are left out.
        pseudo: the teacher's regions.
        temperature: t.
    """
    pseudo = pseudo.detach()
    logits = similarity / temperature
    to_region = -_log_softmax_over_present(logits, pseudo.present.unsqueeze(1))
    to_query = -logits.log_softmax(dim=1)
    # Entries of absent regions are finite and have zero weight.
    return _weighted_mean(0.5 * (to_region + to_query), match * pseudo.weights.unsqueeze(1))


def region_feature_contrastive(
    semantic_map: Tensor, features: Tensor, pseudo: PseudoRegions, temperature: float = 0.1
) -> Tensor:
    """RFC: InfoNCE between the student's class features and the teacher's region features (our reading).

    The anchor of each present slot is r_c = MAP(F, s_c * valid), pooled with the student's own semantic map. Keys are
    r'_c of all images of all ranks. The loss of an anchor is the mean over the keys of its class. Similarity is the
    cosine / t. The gradient reaches the features, and through s_c masks and classes.

    Args:
        semantic_map: (B, K, h, w), s_c of the student, from :func:`rc2l_d2.regions.semantic_probabilities`.
        features: (B, C, h, w), F.
        pseudo: the teacher's regions.
        temperature: t.
    """
    pseudo = pseudo.detach()
    keys, keys_present = gather_over_ranks(pseudo.features), gather_over_ranks(pseudo.present)
    weights = semantic_map * pseudo.valid.unsqueeze(1)
    anchors = normalised(masked_average_pool(features, weights))
    keys = normalised(at_least_float32(keys))
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = torch.einsum("bkc,mjc->bkmj", anchors, keys.to(anchors.dtype)) / temperature

    batch, num_classes = pseudo.present.shape
    log_key = _log_softmax_over_present(similarity.flatten(2), keys_present.flatten())
    log_key = log_key.view(batch, num_classes, -1, num_classes)
    same_class = torch.eye(num_classes, dtype=torch.bool, device=similarity.device)
    positive = (same_class.unsqueeze(1) & keys_present).to(similarity.dtype)  # (K, M, K), M images
    positive = positive / positive.sum(dim=(1, 2), keepdim=True).clamp_min(1.0)
    return _weighted_mean(-(log_key * positive).sum(dim=(2, 3)), pseudo.present)


def region_class_consistency(class_logits: Tensor, match: Tensor, pseudo: PseudoRegions) -> Tensor:
    """RCC: the query that is matched to a region predicts its class (our reading): -log(P_i(c) + 1e-6).

    The gradient reaches only the class logits.

    Args:
        class_logits: (B, N, K+1).
        match: (B, N, K), 1 for matched pairs, 0 elsewhere. Regions without a query are left out.
        pseudo: the teacher's regions.
    """
    pseudo = pseudo.detach()
    log_class = at_least_float32(class_logits).log_softmax(dim=-1)[..., :-1]
    # log(P + floor) in log space, where P itself may be too small for float32. The floor bounds the loss, and fades the
    # gradient of a class with a probability far below it.
    log_class = torch.logaddexp(log_class, torch.full_like(log_class, _FLOOR).log())
    return _weighted_mean(-log_class, match * pseudo.weights.unsqueeze(1))


def confident_cross_entropy(semantic_map: Tensor, pseudo: PseudoRegions) -> Tensor:
    """Mean over all pixels of -log s_y(x)(x), 0 where a pixel is not valid: FixMatch's loss on semantic maps.

    Args:
        semantic_map: (B, K, h, w), s_c of the student.
        pseudo: the teacher's regions; ``valid`` are the confident pixels.
    """
    pseudo = pseudo.detach()
    of_label = (semantic_map * pseudo.masks.to(semantic_map.dtype)).sum(dim=1)
    return (-(of_label + _FLOOR).log() * pseudo.valid).mean()


def semantic_mask_consistency(semantic_map: Tensor, pseudo: PseudoRegions) -> Tensor:
    """SMC: the student's semantic map agrees with the pseudo regions (our reading).

    :func:`confident_cross_entropy` plus half the mean Dice loss between s_c and M_c on valid pixels, over the present
    regions. The gradient reaches masks and classes.

    Args:
        semantic_map: (B, K, h, w), s_c of the student.
        pseudo: the teacher's regions.
    """
    pseudo = pseudo.detach()
    cross_entropy = confident_cross_entropy(semantic_map, pseudo)

    masks = pseudo.masks.to(semantic_map.dtype)
    student = semantic_map * pseudo.valid.unsqueeze(1)
    intersection = (student * masks).sum(dim=(2, 3))
    dice = (2 * intersection + 1) / (student.sum(dim=(2, 3)) + masks.sum(dim=(2, 3)) + 1)
    return cross_entropy + 0.5 * _weighted_mean(1 - dice, pseudo.weights)

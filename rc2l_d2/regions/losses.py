"""The four losses of RC2L between a student's regions and a teacher's pseudo regions.

RMC  region mask contrastive       which region is this query's mask, and which query's mask is this region?
RFC  region feature contrastive    features of one class agree across images, and differ from other classes'
RCC  region class consistency      the queries that lie on a region say its class
SMC  semantic mask consistency     the union of a class's queries covers the union of its regions

The paper names the terms; the formulas are our reading (docs/method.md). Each returns a scalar in at least float32:
the mean over the present regions of the whole batch, weighted by the teacher's confidence in each region. Without any
region the value is exactly zero and still hangs on the graph, so that distributed processes stay in step.

Where a batch lies on several ``processes``, sums of weights are averaged over them. Then the mean of the processes'
losses, as which their gradients are averaged, is the loss of the joint batch.

What they are made of is handed in, so that it is computed once: d_ic, the similarity of queries and regions
(:func:`rc2l_d2.regions.soft_dice`), for RMC and RCC; s_c(x), the student's normalised semantic map
(:func:`rc2l_d2.regions.semantic_probabilities`), for RFC and SMC.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .matching import match_by_class
from .pseudo_labels import masked_average_pool
from .semantic import at_least_float32
from .types import PseudoRegions

# Stands for minus infinity in logits: exp() of it is 0 in every floating-point type, and 0 * it is not NaN.
_EXCLUDED = -1e4
# Smallest probability that RCC and SMC see; bounds their -log at 13.8.
_FLOOR = 1e-6
# Smallest norm that a feature is divided by; a zero feature's gradient then still fits into float16.
_MIN_NORM = 1e-3


class OneProcess:
    """Where a batch lies: all of it on this process. A subclass knows of the others."""

    def mean(self, total: Tensor) -> Tensor:
        """What a sum on this process is on average over all of them."""
        return total


ONE_PROCESS = OneProcess()


def _weighted_mean(values: Tensor, weights: Tensor, processes: OneProcess) -> Tensor:
    """sum(values * weights) / sum(weights), zero (and connected to the graph) where all weights are zero."""
    weights = at_least_float32(weights)
    return (values * weights).sum() / processes.mean(weights.sum()).clamp_min(1e-12)


def _log_softmax_over_present(similarity: Tensor, present: Tensor) -> Tensor:
    """Log-softmax over the last dimension, over those entries only that ``present`` (broadcastable) admits."""
    return similarity.masked_fill(~present, _EXCLUDED).log_softmax(dim=-1)


def region_mask_contrastive(
    similarity: Tensor,
    class_logits: Tensor,
    pseudo: PseudoRegions,
    temperature: float = 0.1,
    assignment: Tensor | None = None,
    processes: OneProcess = ONE_PROCESS,
) -> Tensor:
    """RMC: masks of matched queries and regions attract, those of other regions of the image repel (our reading).

    With d_ic the soft Dice of query i and region c, and P_i(c) the (detached) match by class:

        query to region:  -log softmax_c(d_ic / t), weighted by P_i(c)
        region to query:  -log sum_i P_i(c) exp(d_ic / t) / sum_i exp(d_ic / t)

    half each. The gradient reaches mask logits alone.

    Args:
        similarity: (B, N, K), d_ic.
        class_logits: (B, N, K+1).
        pseudo: the teacher's regions.
        temperature: t.
        assignment: (B, N, K), one where a query is assigned to a region, for P_i(c); a region that no query is assigned
            to (there are fewer queries than regions) is left out. None: the match by class.
        processes: see above.
    """
    pseudo = pseudo.detach()
    if assignment is None:
        match = match_by_class(class_logits, pseudo.present)
        log_match = at_least_float32(class_logits.detach()).log_softmax(dim=-1)[..., :-1]
        weights = pseudo.weights
    else:
        match, log_match = assignment, _EXCLUDED * (1 - assignment)
        weights = pseudo.weights * assignment.amax(dim=1)
    logits = similarity / temperature

    log_region = _log_softmax_over_present(logits, pseudo.present.unsqueeze(1))
    # An excluded entry is -1e4, finite, and its weight is zero.
    query_to_region = _weighted_mean(-log_region, match * pseudo.weights.unsqueeze(1), processes)

    region_logits = torch.logsumexp(logits + log_match, dim=1) - torch.logsumexp(logits, dim=1)
    region_to_query = _weighted_mean(-region_logits, weights, processes)
    return 0.5 * (query_to_region + region_to_query)


def region_feature_contrastive(
    semantic_map: Tensor,
    features: Tensor,
    pseudo: PseudoRegions,
    temperature: float = 0.1,
    keys: Tensor | None = None,
    keys_present: Tensor | None = None,
    processes: OneProcess = ONE_PROCESS,
) -> Tensor:
    """RFC: InfoNCE between the student's class features and the teacher's region features (our reading).

    Anchors are r_c = MAP(F, s_c * valid), pooled with the student's own semantic map, of the slots that are present;
    keys are r'_c of all images; positives are the keys of the same class, averaged; similarity is the cosine / t.

    Args:
        semantic_map: (B, K, h, w), s_c.
        features: (B, C, h, w), F.
        pseudo: the teacher's regions.
        temperature: t.
        keys, keys_present: (M, K, C) and (M, K), region features gathered from all processes; this process's own
            (``pseudo.features``) if not given.
        processes: see above.
    """
    pseudo = pseudo.detach()
    if keys is None:
        keys, keys_present = pseudo.features, pseudo.present
    weights = semantic_map * pseudo.valid.unsqueeze(1)
    anchors = F.normalize(masked_average_pool(features, weights), dim=-1, eps=_MIN_NORM)
    keys = F.normalize(at_least_float32(keys.detach()), dim=-1, eps=_MIN_NORM)
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = torch.einsum("bkc,mjc->bkmj", anchors, keys.to(anchors.dtype)) / temperature

    batch, num_classes = pseudo.present.shape
    log_key = _log_softmax_over_present(similarity.flatten(2), keys_present.flatten())
    log_key = log_key.view(batch, num_classes, -1, num_classes)
    same_class = torch.eye(num_classes, dtype=torch.bool, device=similarity.device)
    positive = (same_class.unsqueeze(1) & keys_present).to(similarity.dtype)  # (K, M, K)
    positive = positive / positive.sum(dim=(1, 2), keepdim=True).clamp_min(1.0)
    return _weighted_mean(-(log_key * positive).sum(dim=(2, 3)), pseudo.present, processes)


def region_class_consistency(
    similarity: Tensor,
    class_logits: Tensor,
    pseudo: PseudoRegions,
    temperature: float = 0.1,
    assignment: Tensor | None = None,
    processes: OneProcess = ONE_PROCESS,
) -> Tensor:
    """RCC: the queries that lie on a region predict its class (our reading).

    o_ic = softmax over the regions of d_ic / t says (without gradient) on which region query i lies;
    q_c = sum_i o_ic P_i(c) / sum_i o_ic is what those queries say together; the loss is -log q_c.
    The gradient reaches class logits alone.

    Args:
        similarity: (B, N, K), d_ic; not used with an assignment.
        class_logits: (B, N, K+1).
        pseudo: the teacher's regions.
        temperature: t.
        assignment: (B, N, K), one where a query is assigned to a region, for o_ic (``temperature`` is not used then); a
            region that no query is assigned to is left out. None: o_ic from the masks.
        processes: see above.
    """
    pseudo = pseudo.detach()
    weights = pseudo.weights
    if assignment is None:
        log_lies_on = _log_softmax_over_present(similarity.detach() / temperature, pseudo.present.unsqueeze(1))
    else:
        log_lies_on = _EXCLUDED * (1 - assignment)
        weights = weights * assignment.amax(dim=1)
    log_class = at_least_float32(class_logits).log_softmax(dim=-1)[..., :-1]
    # In log space a class that no query predicts still has a gradient; the floor bounds the loss and keeps one too.
    log_q = torch.logsumexp(log_lies_on + log_class, dim=1) - torch.logsumexp(log_lies_on, dim=1)
    log_q = torch.logaddexp(log_q, torch.full_like(log_q, _FLOOR).log())
    return _weighted_mean(-log_q, weights, processes)


def confident_cross_entropy(semantic_map: Tensor, pseudo: PseudoRegions) -> Tensor:
    """-log s_y(x)(x) on confident positions, averaged over all positions: FixMatch's loss on semantic maps.

    Args:
        semantic_map: (B, K, h, w), s_c.
        pseudo: the pseudo labels y(x), as regions; ``valid`` are the confident positions.
    """
    pseudo = pseudo.detach()
    of_label = (semantic_map * pseudo.masks.to(semantic_map.dtype)).sum(dim=1)
    return (-(of_label + _FLOOR).log() * pseudo.valid).mean()


def semantic_mask_consistency(
    semantic_map: Tensor, pseudo: PseudoRegions, processes: OneProcess = ONE_PROCESS
) -> Tensor:
    """SMC: the student's semantic map agrees with the pseudo regions (our reading).

    :func:`confident_cross_entropy`, plus half the Dice loss between s_c and M_c on valid positions for each present
    class.

    Args:
        semantic_map: (B, K, h, w), s_c.
        pseudo: the teacher's regions.
        processes: see above.
    """
    pseudo = pseudo.detach()
    cross_entropy = confident_cross_entropy(semantic_map, pseudo)

    masks = pseudo.masks.to(semantic_map.dtype)
    student = semantic_map * pseudo.valid.unsqueeze(1)
    intersection = (student * masks).sum(dim=(2, 3))
    dice = (2 * intersection + 1) / (student.sum(dim=(2, 3)) + masks.sum(dim=(2, 3)) + 1)
    return cross_entropy + 0.5 * _weighted_mean(1 - dice, pseudo.weights, processes)

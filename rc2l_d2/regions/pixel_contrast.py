"""The pixel-level contrastive loss of the baselines. Pure tensor code, as in :mod:`rc2l_d2.regions`.

Their consistency is :func:`rc2l_d2.regions.confident_cross_entropy`, the part of SMC that knows no regions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .semantic import at_least_float32
from .types import TeacherView

# Smallest norm that a feature is divided by; a zero feature's gradient then still fits into float16.
_MIN_NORM = 1e-3
# Smallest weight of a negative: its logarithm takes a negative out of any sum, and is finite in float32.
_MIN_WEIGHT = 1e-30


def pixel_contrastive(
    features: Tensor, view: TeacherView, draw: Tensor | None, samples: int = 0, temperature: float = 0.1
) -> Tensor:
    """InfoNCE between the pixel features of two views (PC2Seg, Zhong et al., ICCV 2021; the details are ours).

    Anchors are the student's F(x), keys the teacher's F'(y), both at the same positions of the whole batch. The
    positive of an anchor is the key at its own position; every other key is a negative with weight 1 - s'(x) . s'(y),
    the probability that x and y are of different classes, so that false negatives hardly count (PC2Seg draws negatives
    to that end). With z the cosine similarity over t:

        -log exp(z_xx) / (exp(z_xx) + sum_y!=x (1 - s'(x) . s'(y)) exp(z_xy)), mean over the anchors

    Time and memory grow with the square of the number of positions. The value is in at least float32; without any
    position to learn from it is exactly zero and still hangs on the graph.

    Args:
        features: (B, C, h, w), F of the mixed strong views.
        view: the teacher's mixed view of the same images.
        draw: (B, h*w) random numbers; the positions of an image with the smallest ones are taken. None where all are.
        samples: positions an image to take; 0 for all.
        temperature: t.
    """
    inside = view.inside.flatten(1)
    positions = inside.shape[1]
    students, teachers, classes = (
        at_least_float32(x).flatten(2).transpose(1, 2) for x in (features, view.features, view.probabilities)
    )  # (B, positions, C or K)
    if 0 < samples < positions:
        # Positions on padding come last: they are taken only where an image has too few others, and count for nothing.
        place = draw.masked_fill(~inside, torch.inf).topk(samples, dim=1, largest=False).indices
        students, teachers, classes = (
            x.gather(1, place.unsqueeze(2).expand(-1, -1, x.shape[2])) for x in (students, teachers, classes)
        )
        inside = inside.gather(1, place)

    inside = inside.flatten()
    anchors = F.normalize(students.flatten(0, 1), dim=1, eps=_MIN_NORM)
    keys = F.normalize(teachers.detach().flatten(0, 1), dim=1, eps=_MIN_NORM)
    classes = classes.detach().flatten(0, 1)
    with torch.autocast(features.device.type, enabled=False):
        similarity = anchors @ keys.to(anchors.dtype).T / temperature
        of_another_class = 1 - classes @ classes.T
    weights = (of_another_class * inside).fill_diagonal_(1).clamp_min(_MIN_WEIGHT)
    losses = (similarity + weights.log().to(similarity.dtype)).logsumexp(dim=1) - similarity.diagonal()
    return (losses * inside).sum() / inside.sum().clamp_min(1)

"""The pixel-level contrastive loss of the baseline ``PixelContrast``.

The pixel-level baselines' other loss is :func:`rc2l_d2.regions.confident_cross_entropy`, the first term of SMC.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ranks import batch_mean
from .semantic import at_least_float32, normalised
from .types import TeacherPrediction


def pixel_contrastive(
    features: Tensor,
    teacher: TeacherPrediction,
    uniform: Tensor,
    samples: int = 0,
    temperature: float = 0.1,
) -> Tensor:
    """InfoNCE between the pixel features of two views (PC2Seg, Zhong et al., ICCV 2021; the details are our reading).

    Anchors are the student's F(x), keys the teacher's F'(y), both at the same pixels of the whole batch. The positive
    of an anchor is the key at its own pixel. Every other key is a negative with weight 1 - s'(x) . s'(y), the
    probability that x and y are of different classes, so that false negatives count little. With z = cosine / t:

        loss of x = -log [exp(z_xx) / (exp(z_xx) + sum_y!=x (1 - s'(x) . s'(y)) exp(z_xy))]

    Time and memory grow with the square of the number of pixels. The value, the mean over the anchors of all
    ranks, is in at least float32; the keys are the rank's own. Without any pixel inside the images it is exactly zero
    and still has a graph.

    Args:
        features: (B, C, h, w), F of the mixed strong views.
        teacher: mixed prediction for the same images.
        uniform: (B, h*w) random numbers; the pixels of an image with the smallest ones are sampled.
        samples: pixels to sample in each image; 0 for all.
        temperature: t.
    """
    inside = teacher.inside.flatten(1)
    pixels = inside.shape[1]
    anchors, keys, classes = (
        at_least_float32(x).flatten(2).transpose(1, 2) for x in (features, teacher.features, teacher.semantic_map)
    )  # (B, pixels, C or K)
    if 0 < samples < pixels:
        # Padding is sampled only if an image has too few pixels; it has zero weight.
        place = uniform.masked_fill(~inside, torch.inf).topk(samples, dim=1, largest=False).indices
        anchors, keys, classes = (
            x.gather(1, place.unsqueeze(2).expand(-1, -1, x.shape[2])) for x in (anchors, keys, classes)
        )
        inside = inside.gather(1, place)

    inside = inside.flatten()
    anchors = normalised(anchors.flatten(0, 1))
    keys = normalised(keys.detach().flatten(0, 1))
    classes = classes.detach().flatten(0, 1)
    with torch.autocast(features.device.type, enabled=False):
        similarity = anchors @ keys.to(anchors.dtype).T / temperature
        of_another_class = 1 - classes @ classes.T
    # The logarithm of a zero, minus infinity, removes the negative from the sum. Rounding may give less than zero.
    weights = (of_another_class * inside).fill_diagonal_(1).clamp_min(0)
    losses = (similarity + weights.log().to(similarity.dtype)).logsumexp(dim=1) - similarity.diagonal()
    return batch_mean((losses * inside).sum(), inside.sum())

"""Mixing of strong views together with the teacher's prediction for them: CutMix, ClassMix, regions of labels.

Mixing acts on the mask grid before pseudo regions are cut, so that the regions of a mixed image are exact. Random
numbers are arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .semantic import one_hot
from .types import TeacherPrediction, map_fields


def neighbours(images: Tensor, teacher: TeacherPrediction) -> tuple[Tensor, TeacherPrediction]:
    """Return for each image its neighbour in the batch: strong views (B, 3, H, W) and the prediction for them."""
    return images.roll(1, dims=0), map_fields(lambda x: x.roll(1, dims=0), teacher)


@torch.no_grad()
def labeled_prediction(labels: Tensor, features: Tensor, like: TeacherPrediction) -> TeacherPrediction:
    """Return labels as a prediction that is certain; pixels without a label are outside of the image.

    Args:
        labels: (B, h, w), integer, on the mask grid; values outside 0, ..., K-1 are no class.
        features: (B, C, h, w), F' of the labelled images.
        like: a prediction of the teacher with K classes, whose number types are used.
    """
    of_class = one_hot(labels, like.semantic_map.shape[1])
    labeled = of_class.any(dim=1)
    return TeacherPrediction(
        semantic_map=of_class.to(like.semantic_map.dtype),
        features=features.to(like.features.dtype),
        label=labels.long().where(labeled, 0),
        confidence=labeled.to(like.confidence.dtype),
        inside=labeled,
        valid=labeled,
    )


def cutmix_mask(uniform: Tensor, size: tuple[int, int]) -> Tensor:
    """Return one random box per image (CutMix, Yun et al. 2019; area and aspect ranges of UniMatch).

    Args:
        uniform: (B, 4) random numbers in [0, 1): area (2 to 40 % of the grid), aspect ratio (0.3 to 1/0.3, log
            scale), vertical and horizontal place.
        size: (h, w) of the grid.

    Returns:
        (B, h, w) bool, True where the partner is pasted; at least one pixel per image.
    """
    height, width = size
    area = (0.02 + 0.38 * uniform[:, 0]) * height * width
    ratio = 0.3 ** (1 - 2 * uniform[:, 1])
    box_height = (area * ratio).sqrt().round().clamp(1, height)
    box_width = (area / ratio).sqrt().round().clamp(1, width)
    top = (uniform[:, 2] * (height - box_height + 1)).floor()
    left = (uniform[:, 3] * (width - box_width + 1)).floor()

    def span(start: Tensor, length: Tensor, steps: int) -> Tensor:
        place = torch.arange(steps, device=uniform.device)
        return (place >= start.unsqueeze(1)) & (place < (start + length).unsqueeze(1))

    return span(top, box_height, height).unsqueeze(2) & span(left, box_width, width).unsqueeze(1)


def classmix_mask(partner: TeacherPrediction, uniform: Tensor) -> Tensor:
    """Return the pixels of half of the partner's classes (ClassMix, Olsson et al. 2021).

    Args:
        partner: prediction for the partners of B images, with K classes.
        uniform: (B, K) random numbers in [0, 1). If partner b has n classes, the ceil(n / 2) of them with the smallest
            numbers in row b are pasted.

    Returns:
        (B, h, w) bool, True where the partner is pasted.
    """
    of_class = one_hot(partner.label, partner.semantic_map.shape[1]) & partner.inside.unsqueeze(1)
    occurs = of_class.any(dim=-1).any(dim=-1)
    # Classes that don't occur rank last.
    rank = uniform.masked_fill(~occurs, 2.0).argsort(dim=1).argsort(dim=1)
    pasted = occurs & (2 * rank < occurs.sum(dim=1, keepdim=True))
    return (of_class & pasted[..., None, None]).any(dim=1)


def mix(
    images: Tensor, teacher: TeacherPrediction, mask: Tensor, partner_images: Tensor, partner: TeacherPrediction
) -> tuple[Tensor, TeacherPrediction]:
    """Paste the partner of each image where ``mask`` is True, in strong views and teacher's prediction alike.

    Args:
        images: (B, 3, H, W), H and W the grid's h and w times the stride.
        teacher: prediction for the same images.
        mask: (B, h, w) bool.
        partner_images, partner: image and prediction of each partner.
    """
    stride = images.shape[-1] // mask.shape[-1]
    on_grid = mask.unsqueeze(1)
    on_pixels = on_grid.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    mixed = map_fields(lambda x, other: torch.where(on_grid if x.dim() == 4 else mask, other, x), teacher, partner)
    return torch.where(on_pixels, partner_images, images), mixed

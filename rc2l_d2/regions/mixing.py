"""CutMix and ClassMix of strong views together with the teacher's prediction for them.

The partner of an image is its neighbour in the batch (``roll`` by one). Mixing acts on the mask grid before pseudo
regions are cut, so that the regions of a mixed image are exact. Random numbers are arguments.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from .semantic import one_hot
from .types import TeacherPrediction


def _partner(x: Tensor) -> Tensor:
    return x.roll(1, dims=0)


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


def classmix_mask(teacher: TeacherPrediction, uniform: Tensor) -> Tensor:
    """Return the pixels of half of the partner's classes (ClassMix, Olsson et al. 2021).

    Args:
        teacher: prediction for B images with K classes.
        uniform: (B, K) random numbers in [0, 1). If the partner of image b has n classes, the ceil(n / 2) of them with
            the smallest numbers in row b are pasted.

    Returns:
        (B, h, w) bool, True where the partner is pasted.
    """
    of_class = _partner(one_hot(teacher.label, teacher.semantic_map.shape[1]) & teacher.inside.unsqueeze(1))
    occurs = of_class.any(dim=-1).any(dim=-1)
    # Classes that don't occur rank last.
    rank = uniform.masked_fill(~occurs, 2.0).argsort(dim=1).argsort(dim=1)
    pasted = occurs & (2 * rank < occurs.sum(dim=1, keepdim=True))
    return (of_class & pasted[..., None, None]).any(dim=1)


def mix(images: Tensor, teacher: TeacherPrediction, mask: Tensor) -> tuple[Tensor, TeacherPrediction]:
    """Paste the partner of each image where ``mask`` is True, in strong views and teacher's prediction alike.

    Args:
        images: (B, 3, H, W), H and W the grid's h and w times the stride.
        teacher: prediction for the same images.
        mask: (B, h, w) bool.
    """
    stride = images.shape[-1] // mask.shape[-1]
    on_grid = mask.unsqueeze(1)
    on_pixels = on_grid.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    maps = {field.name: getattr(teacher, field.name) for field in fields(teacher)}
    mixed = {name: torch.where(on_grid if x.dim() == 4 else mask, _partner(x), x) for name, x in maps.items()}
    return torch.where(on_pixels, _partner(images), images), TeacherPrediction(**mixed)

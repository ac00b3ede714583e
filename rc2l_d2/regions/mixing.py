"""CutMix and ClassMix of strong views, together with what the teacher says about them.

The partner of an image is its neighbour in the batch (``roll`` by one). Mixing happens on the grid of the teacher's
maps, before pseudo regions are cut from them, so that the regions of a mixed image are exact. Random numbers come in
as tensors, drawn by the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pseudo_labels import labels_and_confidence
from .types import TeacherView


def _partner(x: Tensor) -> Tensor:
    return x.roll(1, dims=0)


def cutmix_mask(uniform: Tensor, size: tuple[int, int]) -> Tensor:
    """One random box an image (CutMix, Yun et al. 2019; area and aspect ranges as UniMatch has them).

    Args:
        uniform: (B, 4) random numbers in [0, 1): area (2 to 40 % of the grid), aspect ratio (0.3 to 1/0.3, log
            scale), vertical and horizontal place.
        size: (h, w) of the grid.

    Returns:
        (B, h, w) bool, True where the partner is pasted; at least one position an image.
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


def classmix_mask(view: TeacherView, uniform: Tensor) -> Tensor:
    """The partner's positions of half of its classes (ClassMix, Olsson et al. 2021).

    Args:
        view: the teacher's view of B images with K classes.
        uniform: (B, K) random numbers in [0, 1); of the n classes that occur in the partner of image b, the
            ceil(n / 2) with the smallest numbers in row b are pasted.

    Returns:
        (B, h, w) bool, True where the partner is pasted.
    """
    labels = _partner(labels_and_confidence(view)[0])
    occurs = labels.any(dim=-1).any(dim=-1)
    # Classes that don't occur rank last.
    rank = uniform.masked_fill(~occurs, 2.0).argsort(dim=1).argsort(dim=1)
    chosen = occurs & (2 * rank < occurs.sum(dim=1, keepdim=True))
    return (labels & chosen[..., None, None]).any(dim=1)


def mix(images: Tensor, view: TeacherView, mask: Tensor) -> tuple[Tensor, TeacherView]:
    """Paste each image's partner where ``mask`` says, in the strong views and in the teacher's maps alike.

    Args:
        images: (B, 3, H, W), H and W the grid's h and w times the stride.
        view: what the teacher says about the same images.
        mask: (B, h, w) bool.
    """
    stride = images.shape[-1] // mask.shape[-1]
    on_grid = mask.unsqueeze(1)
    on_pixels = on_grid.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    mixed = TeacherView(
        probabilities=torch.where(on_grid, _partner(view.probabilities), view.probabilities),
        features=torch.where(on_grid, _partner(view.features), view.features),
        inside=torch.where(mask, _partner(view.inside), view.inside),
        chosen=view.chosen if view.chosen is None else torch.where(mask, _partner(view.chosen), view.chosen),
    )
    return torch.where(on_pixels, _partner(images), images), mixed

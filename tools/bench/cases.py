"""Random regions and teacher's views in the shapes of a training step, for benchmarks of the method's tensor code."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from rc2l_d2.regions import Regions, TeacherView


def random_case(
    images: int, queries: int, classes: int, channels: int, size: int, device: torch.device
) -> tuple[Regions, TeacherView]:
    """A student's regions, leaves that require gradients, and a teacher's view with blobs of all classes.

    The same numbers on every device.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    regions = Regions(
        random(images, queries, classes + 1).requires_grad_(),
        random(images, queries, size, size).requires_grad_(),
        random(images, channels, size, size).requires_grad_(),
    )
    coarse = random(images, classes, 8, 8)
    scores = F.interpolate(coarse, size=(size, size), mode="bilinear")
    view = TeacherView(
        probabilities=scores.mul(4).softmax(dim=1),
        features=random(images, channels, size, size),
        inside=torch.ones(images, size, size, dtype=torch.bool, device=device),
    )
    return regions, view

"""Means of the features of regions over the last steps, class by class: prototypes that classify regions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..regions import sum_over_ranks

# Fraction of the memory that a step keeps: it holds about a hundred steps.
_MOMENTUM = 0.99


class RegionMemory(nn.Module):
    """Sums of region features by class, which decay from step to step (our reading, see docs/method.md).

    With mu the mean of all regions and mu_c that of class c, a region with features z is as similar to class c as the
    cosine of z - mu and mu_c - mu. The sums are running statistics: :meth:`update` changes them, and no gradient does.
    """

    sums: Tensor
    weights: Tensor

    def __init__(self, num_classes: int, channels: int):
        """
        Args:
            num_classes: K.
            channels: C, of the features.
        """
        super().__init__()
        self.register_buffer("sums", torch.zeros(num_classes, channels))
        self.register_buffer("weights", torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the similarity of regions (B, N, C) to each class, (B, N, K); 0 for a class without regions."""
        mean = self.sums.sum(dim=0) / self.weights.sum().clamp(min=1e-6)
        prototypes = F.normalize(self.sums / self.weights.clamp(min=1e-6).unsqueeze(1) - mean, dim=1)
        prototypes = prototypes * (self.weights > 0).unsqueeze(1)
        # Autocast would run the product in half precision.
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float() - mean, dim=2) @ prototypes.T

    @torch.no_grad()
    def update(self, features: Tensor, class_weights: Tensor) -> None:
        """Add the regions of a step, of all ranks.

        Args:
            features: (B, N, C).
            class_weights: (B, N, K), non-negative: how much each region counts for each class.
        """
        with torch.autocast(features.device.type, enabled=False):
            sums = torch.einsum("bnk,bnc->kc", class_weights.float(), features.float())
        added = sum_over_ranks(torch.cat([sums, class_weights.float().sum(dim=(0, 1)).unsqueeze(1)], dim=1))
        self.sums.mul_(_MOMENTUM).add_(added[:, :-1])
        self.weights.mul_(_MOMENTUM).add_(added[:, -1])

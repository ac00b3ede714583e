"""Classes of regions, fitted to the regions of whole images: a linear layer and the mean regions of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Fit of the linear layer: steps on all labelled regions at once, their first learning rate, and label smoothing.
_STEPS, _RATE, _SMOOTHING = 400, 1e-3, 0.05


@dataclass(frozen=True)
class RegionSample:
    """Regions of many images.

    Attributes:
        features: (M, C).
        area: (M,), fraction of the image.
        query: (M,), index of the query; on labelled images this is the class.
    """

    features: Tensor
    area: Tensor
    query: Tensor


class RegionClassifier(nn.Module):
    """A linear layer, and cosines to class means in which unlabelled regions take part (our reading, docs/method.md).

    The linear layer learns from labelled regions alone. It predicts the class of unlabelled regions, and all regions
    together, weighted with the root of their area and the probability of their class, have the mean mu, and those of
    class c the mean mu_c. A region z has the logits  W z + b + factor * cos(z - mu, mu_c - mu).

    A linear layer that learns in the training step sees crops, whose regions differ from those of whole images. It
    would also learn from pseudo labels, and could not judge them any more. So this one has no gradient in a step, and
    :meth:`fit` computes it anew.

    Attributes:
        fitted: 0 before the first :meth:`fit`, then 1.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    prototypes: Tensor
    fitted: Tensor

    def __init__(self, num_classes: int, channels: int, factor: float):
        """
        Args:
            num_classes: K.
            channels: C, of the features.
            factor: of the cosines.
        """
        super().__init__()
        self.factor = factor
        self.register_buffer("weight", torch.zeros(num_classes, channels))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("prototypes", torch.zeros(num_classes, channels))
        self.register_buffer("fitted", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the class logits, (..., K), of regions with these features, (..., C)."""
        # Autocast would run the products in half precision.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            similarity = F.normalize(features - self.mean, dim=-1) @ self.prototypes.T
            return features @ self.weight.T + self.bias + self.factor * similarity

    def fit(self, labeled: RegionSample, unlabeled: RegionSample | None = None, dropout: float = 0.0) -> None:
        """Compute all buffers anew.

        Args:
            labeled: regions of labelled images, of the classes in their labels.
            unlabeled: regions of other images.
            dropout: fraction of the features that the linear layer does not see at each step.
        """
        classes = len(self.bias)
        features, counts = labeled.features, F.one_hot(labeled.query, classes) * labeled.area.sqrt().unsqueeze(1)
        with torch.autocast(features.device.type, enabled=False):
            layer = _fitted_linear(features, labeled.query, classes, dropout)
            if unlabeled is not None:
                probability, label = layer(unlabeled.features).softmax(dim=1).max(dim=1)
                more = F.one_hot(label, classes) * (probability * unlabeled.area.sqrt()).unsqueeze(1)
                features, counts = torch.cat([features, unlabeled.features]), torch.cat([counts, more])
            sums, totals = counts.T @ features, counts.sum(dim=0)
        self.weight.copy_(layer.weight)
        self.bias.copy_(layer.bias)
        self.mean.copy_(sums.sum(dim=0) / totals.sum().clamp(min=1e-6))
        means = sums / totals.clamp(min=1e-6).unsqueeze(1)
        # No region is similar to a class without regions.
        self.prototypes.copy_(F.normalize(means - self.mean, dim=1) * (totals > 0).unsqueeze(1))
        self.fitted.fill_(1.0)


def _fitted_linear(features: Tensor, labels: Tensor, classes: int, dropout: float) -> nn.Linear:
    """Return a linear layer that has learned from zero, by the smoothed cross-entropy under dropout of its input."""
    devices = [features.device] if features.is_cuda else []
    # The same fit at each call, and the caller's random numbers stay as they are.
    with torch.enable_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        layer = nn.Linear(features.shape[1], classes, device=features.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.AdamW(layer.parameters(), _RATE)
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, _STEPS, power=0.9)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            logits = layer(F.dropout(features, dropout))
            F.cross_entropy(logits, labels, label_smoothing=_SMOOTHING).backward()
            optimizer.step()
            scheduler.step()
    return layer.requires_grad_(False)

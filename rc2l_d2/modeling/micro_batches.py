"""A batch that does not fit into memory passes through the model in micro-batches, and still has one loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..regions.types import Regions


def regions_in_micro_batches(
    predict: Callable[[Tensor, int], Regions], images: Tensor, supervised: int, size: int, model: nn.Module
) -> Regions:
    """Predict the regions of a batch, ``size`` images at a time; the backward pass repeats each micro-batch.

    Losses that compare regions of several images cover the whole batch, unlike with accumulated gradients; only
    activations are limited to a micro-batch. Batch normalisation takes its statistics from a micro-batch; with any
    other normalisation the gradient is that of the whole batch.

    Args:
        predict: function of images and the number of labelled ones, which come first, that returns their regions.
        images: (B, 3, H, W).
        supervised: number of labelled ``images``, which come first.
        size: images in a micro-batch, from 1.
        model: module that ``predict`` computes with.
    """
    parts = []
    for first in range(0, len(images), size):
        some = images[first : first + size]
        labeled = min(max(supervised - first, 0), len(some))
        if torch.is_grad_enabled():
            part = checkpoint(
                predict, some, labeled, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(model))
            )
        else:
            part = predict(some, labeled)
        parts.append(part)
    return _concatenated(parts)


def _concatenated(parts: list[Regions]) -> Regions:
    layers = zip(*(part.auxiliary for part in parts), strict=True)
    return Regions(
        torch.cat([part.class_logits for part in parts]),
        torch.cat([part.mask_logits for part in parts]),
        torch.cat([part.features for part in parts]),
        tuple((torch.cat([c for c, _ in layer]), torch.cat([m for _, m in layer])) for layer in layers),
    )


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are: the repeated forward must not count its images again."""
    modules = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(module.momentum, module.num_batches_tracked) for module in modules]
    for module in modules:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, counter) in zip(modules, before, strict=True):
            module.momentum, module.num_batches_tracked = momentum, counter

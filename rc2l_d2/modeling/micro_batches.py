"""A batch that does not fit into memory goes through the model a few images at a time, and still has one loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..regions.types import Regions


def regions_in_passes(
    predict: Callable[[Tensor, int], Regions], images: Tensor, supervised: int, size: int, model: nn.Module
) -> Regions:
    """The regions of a batch, ``size`` images a pass; the backward pass repeats each of them.

    Losses that compare regions of several images are of the whole batch, which accumulating the gradients of small
    batches could not give: only the activations are of one pass. Batch normalisation takes its statistics from the
    images of a pass; any other normalisation gives the gradient of the whole batch.

    Args:
        predict: images, and how many of them, which come first, have labels, to their regions.
        images: (B, 3, H, W).
        supervised: how many of ``images``, which come first, have labels.
        size: from 1.
        model: what ``predict`` computes with.
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
        tuple(tuple(map(torch.cat, zip(*layer, strict=True))) for layer in layers),
    )


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within it running statistics stay as they are: the repeated pass must not count its images again."""
    modules = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(module.momentum, module.num_batches_tracked) for module in modules]
    for module in modules:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, counter) in zip(modules, before, strict=True):
            module.momentum, module.num_batches_tracked = momentum, counter

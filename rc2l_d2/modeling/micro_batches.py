"""Micro-batches: one loss over a whole batch, with the activations of a few images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..regions.types import Regions


def regions_in_micro_batches(
    predict: Callable[[Tensor, int, int], Regions],
    images: Tensor,
    supervised: int,
    dropped: int,
    size: int,
    model: nn.Module,
) -> Regions:
    """Predict the regions of a batch, ``size`` images at a time; the backward pass repeats each micro-batch.

    The losses see the whole batch, also those that compare regions of several images; accumulated gradients could not
    do this. Batch normalisation takes its statistics from a micro-batch; with any other normalisation the gradient is
    that of the whole batch.

    Args:
        predict: function of a micro-batch and its numbers of first labelled and of last dropped images that returns its
            regions.
        images: (B, 3, H, W), labelled images first.
        supervised: number of labelled images.
        dropped: number of images at the end that lose feature channels.
        size: images in a micro-batch, at least 1.
        model: module that ``predict`` computes with.
    """

    def contexts():
        return nullcontext(), _statistics_kept(model)

    results = []
    for first in range(0, len(images), size):
        micro_batch = images[first : first + size]
        end = first + len(micro_batch)
        counts = [min(max(n, 0), len(micro_batch)) for n in (supervised - first, end - (len(images) - dropped))]
        results.append(checkpoint(predict, micro_batch, *counts, use_reentrant=False, context_fn=contexts))
    features = [regions.region_features for regions in results if regions.region_features is not None]
    layers = zip(*(regions.auxiliary for regions in results), strict=True)
    return Regions(
        torch.cat([regions.class_logits for regions in results]),
        torch.cat([regions.mask_logits for regions in results]),
        torch.cat([regions.features for regions in results]),
        tuple((torch.cat([c for c, _ in layer]), torch.cat([m for _, m in layer])) for layer in layers),
        torch.cat(features) if features else None,
    )


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Freeze running statistics: the repeated forward pass must not count its images again."""
    modules = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(module.momentum, module.num_batches_tracked) for module in modules]
    for module in modules:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, counter) in zip(modules, before, strict=True):
            module.momentum, module.num_batches_tracked = momentum, counter

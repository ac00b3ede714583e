"""Sums and means over the ranks of a distributed run. On a single rank every function returns its argument."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Return the number of ranks, 1 outside a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all ranks, without gradient."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of ``x`` over all ranks, without gradient."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x


def batch_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return the loss ``total`` divided by the mean of ``count`` over all ranks; zero with a graph if that is zero.

    DistributedDataParallel averages gradients over ranks, and the averaged gradient is then that of the global batch.
    """
    return total / mean_over_ranks(count.to(total.dtype)).clamp_min(1e-12)


def gather_over_ranks(x: Tensor) -> Tensor:
    """Return ``x`` (B, ...) of all ranks, concatenated to (ranks * B, ...), without gradient."""
    if world_size() == 1:
        return x
    gathered = [torch.empty_like(x) for _ in range(world_size())]
    distributed.all_gather(gathered, x.detach().contiguous())
    return torch.cat(gathered)

"""The running statistics of a model's batch normalisation, all in one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def batch_statistics(model: nn.Module) -> Tensor:
    """A copy of all floating-point buffers of ``model``, (S,); counters are not among them."""
    return torch.cat([buffer.flatten() for buffer in _statistics(model)])


@torch.no_grad()
def set_batch_statistics(model: nn.Module, values: Tensor) -> None:
    """Give the buffers the values (S,) that :func:`batch_statistics` has of such a model."""
    buffers = _statistics(model)
    parts = values.split([buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])


def _statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]

"""The floating-point buffers of a model as one vector: of batch normalisation and classes of regions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def batch_statistics(model: nn.Module) -> Tensor:
    """Return a copy of all floating-point buffers of ``model``, (S,); integer counters are left out."""
    return torch.cat([buffer.flatten() for buffer in _statistics(model)])


@torch.no_grad()
def set_batch_statistics(model: nn.Module, values: Tensor) -> None:
    """Set the buffers to ``values`` (S,), in the order of :func:`batch_statistics`."""
    buffers = _statistics(model)
    chunks = values.split([buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [chunk.view_as(buffer) for chunk, buffer in zip(chunks, buffers, strict=True)])


def _statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]

"""What the losses have to know of the other processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host import comm


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor without gradient over all processes, each of which has to call this."""
    if comm.get_world_size() == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / comm.get_world_size()


def gather_images(x: Tensor) -> Tensor:
    """``x`` (B, ...) of all processes, one after the other, (processes * B, ...), without gradient."""
    if comm.get_world_size() == 1:
        return x
    gathered = [torch.empty_like(x) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)

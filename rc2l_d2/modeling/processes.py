"""What the losses have to know of the other processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host import comm
from ..regions import OneProcess


class AllProcesses(OneProcess):
    """Every process of the run has to ask for the same means; gradients do not pass."""

    def mean(self, total: Tensor) -> Tensor:
        if comm.get_world_size() == 1:
            return total
        total = total.clone()
        torch.distributed.all_reduce(total)
        return total / comm.get_world_size()


ALL_PROCESSES = AllProcesses()


def gather_images(x: Tensor) -> Tensor:
    """``x`` (B, ...) of all processes, one after the other, (processes * B, ...), without gradient."""
    if comm.get_world_size() == 1:
        return x
    gathered = [torch.empty_like(x) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)

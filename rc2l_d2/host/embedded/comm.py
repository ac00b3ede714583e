"""Talking between the processes of one training run; every call is a no-op where there is only one process."""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Number of this process over all machines, from 0."""
    return dist.get_rank() if _initialized() else 0


def get_local_rank() -> int:
    """Number of this process on its machine, from 0; KeyError if neither ``launch`` nor torchrun started it."""
    return int(os.environ["LOCAL_RANK"]) if _initialized() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Nothing to do: :func:`get_local_rank` is told by who started the processes."""


def is_main_process() -> bool:
    """Whether this is the process that logs and writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


# Weak, because a group that outlives destroy_process_group keeps its threads, see ..process.run_process.
_object_groups = weakref.WeakValueDictionary()


def _object_group() -> dist.ProcessGroup:
    """A gloo group of all processes: objects travel through host memory, whatever the tensors do."""
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    group = _object_groups.get("gloo")
    if group is None:
        group = _object_groups["gloo"] = dist.new_group(backend="gloo")
    return group


def all_gather(data: Any) -> list[Any]:
    """The picklable ``data`` of every process, in order of rank, on every process."""
    if get_world_size() == 1:
        return [data]
    output = [None] * get_world_size()
    dist.all_gather_object(output, data, group=_object_group())
    return output


def gather(data: Any, dst: int = 0) -> list[Any]:
    """The picklable ``data`` of every process, in order of rank, on process ``dst``; an empty list on the others."""
    if get_world_size() == 1:
        return [data]
    output = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, output, dst=dst, group=_object_group())
    return output or []


def shared_random_seed() -> int:
    """A seed drawn from rank 0's numpy generator, the same on every process. Every process must call it."""
    return all_gather(int(np.random.randint(2**31)))[0]

"""Communication between the ranks of one training run. Nothing is sent if there is only one rank."""

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
    """Return the number of ranks."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Return this rank's number over all machines, from 0."""
    return dist.get_rank() if _initialized() else 0


def get_local_rank() -> int:
    """Return this rank's number on its machine, from 0 (set by ``launch`` or torchrun)."""
    return int(os.environ["LOCAL_RANK"]) if _initialized() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Do nothing: :func:`get_local_rank` reads the environment."""


def is_main_process() -> bool:
    """Return whether this rank logs and writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait for all ranks."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


# Weak, because a group that outlives destroy_process_group keeps its threads, see ..process.run_process.
_object_groups = weakref.WeakValueDictionary()


def _object_group() -> dist.ProcessGroup:
    """Return a gloo group of all ranks, which sends objects through host memory."""
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    group = _object_groups.get("gloo")
    if group is None:
        group = _object_groups["gloo"] = dist.new_group(backend="gloo")
    return group


def all_gather(data: Any) -> list[Any]:
    """Return the picklable ``data`` of every rank, in order of rank, on every rank."""
    if get_world_size() == 1:
        return [data]
    output = [None] * get_world_size()
    dist.all_gather_object(output, data, group=_object_group())
    return output


def gather(data: Any) -> list[Any]:
    """Return the picklable ``data`` of every rank, in order of rank, on rank 0; an empty list elsewhere."""
    if get_world_size() == 1:
        return [data]
    output = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(data, output, group=_object_group())
    return output or []


def shared_random_seed() -> int:
    """Return a random seed of rank 0's NumPy generator on every rank. All ranks must call it."""
    return all_gather(int(np.random.randint(2**31)))[0]

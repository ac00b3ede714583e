"""Runs whose processes torchrun started: it ends them all when one dies, and starts them again where it is told to."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import distributed as dist

from ..host import comm
from ..host.process import run_process


def started_by_torchrun() -> bool:
    """Whether this is one of torchrun's processes."""
    return dist.is_torchelastic_launched()


def run_under_torchrun(main_func: Callable, args: tuple) -> None:
    """``main_func(*args)`` as one of torchrun's processes; their number and place are torchrun's."""
    store, rank, world_size = next(dist.rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # Processes that are started again find the store of those that died (seen with torch 2.13), and would call them
        # at the addresses that they left there. Machines count their restarts each for itself, so this is for one.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
    run_process(comm, local_world_size, main_func, args, store=store, rank=rank, world_size=world_size)

"""Runs whose ranks torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import distributed as dist

from ..host import comm
from ..host.process import run_process


def run_under_torchrun(main_func: Callable, args: tuple) -> None:
    """Call ``main_func(*args)`` on the rank that torchrun assigned to this process."""
    store, rank, world_size = next(dist.rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # Restarted ranks find the store of the ranks that died, with stale addresses (seen with torch 2.13). Each
        # machine counts its own restarts, so the prefix works on one machine only.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
    run_process(comm, local_world_size, main_func, args, store=store, rank=rank, world_size=world_size)

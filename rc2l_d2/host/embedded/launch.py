"""Start one process per rank and connect the ranks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch.multiprocessing as mp

from ..process import run_process
from . import comm


def launch(
    main_func: Callable, num_gpus_per_machine: int, num_machines: int = 1, machine_rank: int = 0,
    dist_url: str | None = None, args: tuple = (),
) -> None:  # fmt: skip
    """Call ``main_func(*args)`` on every rank of a run; to be called on each machine.

    A single rank runs in this process. Several are spawned (at most the number of GPUs, or any number on CPU), so
    ``main_func`` and ``args`` must be picklable. ``dist_url`` is the address of rank 0; "auto" takes a free port.

    Raises:
        AssertionError: "auto" with several machines, no ``dist_url``, or more ranks than GPUs.
        ProcessRaisedException: a rank failed; carries its traceback.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto is not supported with several machines: name a host and port."
        with socket.create_server(("127.0.0.1", 0)) as server:
            dist_url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    assert dist_url, "Several ranks need a dist_url, or 'auto'."
    arguments = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args)
    mp.start_processes(_worker, arguments, nprocs=num_gpus_per_machine)


def _worker(local_rank, main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args):
    os.environ["LOCAL_RANK"] = str(local_rank)
    rank = machine_rank * num_gpus_per_machine + local_rank
    run_process(comm, num_gpus_per_machine, main_func, args, init_method=dist_url, world_size=world_size, rank=rank)

"""Starting one process per device, or per CPU share, and joining them to one process group."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import comm


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> None:
    """Call ``main_func(*args)`` in every process of a run; to be called on each machine.

    A single process runs here, without a group. Several are spawned, so ``main_func`` and ``args`` must be picklable,
    and talk by NCCL where CUDA is available, else by gloo.

    Args:
        num_gpus_per_machine: processes per machine: at most its GPUs, or any number on CPU.
        dist_url: where rank 0 listens, as ``tcp://127.0.0.1:8686``; "auto" takes a free port of this machine.

    Raises:
        AssertionError: "auto" with several machines, no ``dist_url``, or more processes than GPUs.
        torch.multiprocessing.ProcessRaisedException: a process failed; carries its traceback.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto is not supported with several machines: name a host and port."
        with socket.create_server(("127.0.0.1", 0)) as server:
            dist_url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    assert dist_url, "Several processes need a dist_url to meet at, or 'auto'."
    arguments = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args)
    mp.start_processes(_worker, arguments, nprocs=num_gpus_per_machine)


def _worker(local_rank, main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args):
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        gpus = torch.cuda.device_count()
        assert num_gpus_per_machine <= gpus, f"{num_gpus_per_machine} processes asked for, but there are {gpus} GPUs."
        torch.cuda.set_device(local_rank)
    os.environ["LOCAL_RANK"] = str(local_rank)
    dist.init_process_group(
        backend="nccl" if has_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timedelta(minutes=30),
    )
    comm.synchronize()
    main_func(*args)
    # What is left of the model in reference cycles goes while the interpreter still runs: threads of torch that free
    # Python objects later, at its end, abort the process now and then.
    gc.collect()
    # All together, for rank 0 holds the store; and not after a failure, when other members may still wait.
    comm.synchronize()
    dist.destroy_process_group()

"""What each of several processes of a run does around its work, whoever started it."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType

import torch
import torch.distributed as dist

SIGNALLED = (130, 143)  # 128 and the number of SIGINT, SIGTERM


def run_process(comm: ModuleType, local_world_size: int, main_func: Callable, args: tuple, **group) -> None:
    """Join the other processes, call ``main_func(*args)`` and leave together with them.

    They talk by NCCL where CUDA is available, each with the GPU of its LOCAL_RANK (environment), else by gloo.

    Args:
        comm: the host's.
        local_world_size: processes on this machine.
        group: where they meet, in the words of ``torch.distributed.init_process_group``.

    Raises:
        AssertionError: there are more processes than GPUs.
        SystemExit: as ``main_func`` does; with a status in SIGNALLED in all processes, and together.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        gpus = torch.cuda.device_count()
        assert local_world_size <= gpus, f"{local_world_size} processes asked for, but there are {gpus} GPUs."
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # DistributedDataParallel imports it, and what it has as default arguments would keep a group that is there by then.
    importlib.import_module("torch._dynamo")
    dist.init_process_group(backend="nccl" if has_gpu else "gloo", timeout=timedelta(minutes=30), **group)
    comm.create_local_process_group(local_world_size)
    comm.synchronize()
    status = 0
    try:
        main_func(*args)
    except SystemExit as leaving:
        if leaving.code not in SIGNALLED:
            raise
        status = leaving.code  # and not the exception, whose frames hold the model
    # What is left of the model in reference cycles goes while the interpreter still runs, and with it all that holds
    # the group, whose threads then end here: threads that free Python objects while the interpreter ends abort it.
    gc.collect()
    # All together, for rank 0 holds the store; and not after a failure, when other members may still wait.
    comm.synchronize()
    dist.destroy_process_group()
    if status:
        sys.exit(status)

"""The work of one rank of a distributed run, for ``launch`` and torchrun."""

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

SIGNALLED = (130, 143)  # exit status after SIGINT and SIGTERM: 128 plus the signal's number


def run_process(comm: ModuleType, local_world_size: int, main_func: Callable, args: tuple, **group) -> None:
    """Join the process group, call ``main_func(*args)`` and leave the group together with the other ranks.

    The backend is NCCL if CUDA is available, with the GPU of LOCAL_RANK (environment), else gloo.

    Args:
        comm: of the host.
        local_world_size: number of ranks on this machine.
        group: further arguments of ``torch.distributed.init_process_group``.

    Raises:
        AssertionError: more ranks than GPUs.
        SystemExit: raised by ``main_func``; a status in SIGNALLED is raised after all ranks have left the group.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        gpus = torch.cuda.device_count()
        assert local_world_size <= gpus, f"{local_world_size} ranks requested, but there are {gpus} GPUs."
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # DistributedDataParallel and a sharded optimizer import these. Imported after the group exists, their default
    # arguments would keep the group.
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch.distributed.optim")
    dist.init_process_group(backend="nccl" if has_gpu else "gloo", timeout=timedelta(minutes=30), **group)
    comm.create_local_process_group(local_world_size)
    comm.synchronize()
    status = 0
    try:
        main_func(*args)
    except SystemExit as leaving:
        if leaving.code not in SIGNALLED:
            raise
        status = leaving.code  # not the exception, whose frames hold the model
    # Free the model's reference cycles, and with them the group and its threads, while the interpreter still runs:
    # threads that free Python objects during interpreter shutdown abort it.
    gc.collect()
    # Leave together, because rank 0 holds the store. Not after a failure, when other ranks may still wait.
    comm.synchronize()
    dist.destroy_process_group()
    if status:
        sys.exit(status)

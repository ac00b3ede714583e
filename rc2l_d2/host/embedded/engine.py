"""The default trainer, and what a training script does before it."""

from __future__ import annotations

import argparse
import os
import platform
import random

import numpy as np
import torch

from . import comm
from .checkpoint import DetectionCheckpointer
from .config import CfgNode
from .logger import setup_logger
from .train_loop import SimpleTrainer, TrainerBase


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The arguments that training scripts share; ``--help`` ends with ``epilog``."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to the configuration file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate and don't train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per machine: its GPUs, or any number on CPU")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # The same port each time for one user, so that processes left over from an earlier run show as a taken port.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    url_help = "where the processes meet; 'auto' takes a free port"
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help=url_help)
    opts_help = "settings that replace the file's, as PATH.KEY VALUE pairs"
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER, help=opts_help)
    return parser


def _environment() -> str:
    lines = [
        f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {platform.platform()}",
        f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        lines.append(f"gpu {index}: {properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    return "\n".join(lines)


def default_setup(cfg: CfgNode, args: argparse.Namespace | None) -> None:
    """Start a job: output folder, loggers, a record of environment and configuration, seeds.

    ``config.yaml`` with the whole configuration is written to OUTPUT_DIR. Each process seeds the generators of Python,
    numpy and torch with ``SEED + rank``, or from the system's entropy where SEED < 0. Of ``args``, ``config_file`` and
    ``eval_only`` matter if they are there.
    """
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", _environment())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with open(config_file, encoding="utf-8") as file:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, file.read())
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())
        logger.info("Full config saved to %s", path)

    seed = cfg.SEED + rank if cfg.SEED >= 0 else int.from_bytes(os.urandom(4), "big") >> 1
    logger.info("Random seed of this process: %d", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not getattr(args, "eval_only", False):  # images of varying size make its search cost more than it gains
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


class DefaultTrainer(TrainerBase):
    """Training and resuming as a configuration describes them.

    Detectron2's constructor, hooks, writers and evaluation are left out: a subclass sets the attributes and registers
    hooks.

    Attributes:
        cfg: the configuration.
        max_iter: where training stops.
        scheduler: of the learning rate, moved on by its hook.
        checkpointer: saves the model and, as ``trainer``, the state of training.
    """

    cfg: CfgNode
    scheduler: torch.optim.lr_scheduler.LRScheduler
    checkpointer: DetectionCheckpointer
    _trainer: SimpleTrainer  # does the step

    model = property(lambda self: self._trainer.model)
    data_loader = property(lambda self: self._trainer.data_loader)
    optimizer = property(lambda self: self._trainer.optimizer)

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, with all its state, if ``resume`` and there is one; else load
        the model alone from ``MODEL.WEIGHTS``."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # a checkpoint names the iteration that was done

    def train(self) -> None:
        """Run the iterations from ``start_iter`` on."""
        super().train(self.start_iter, self.max_iter)

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

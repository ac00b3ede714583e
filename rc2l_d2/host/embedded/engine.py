"""The default trainer and the setup of a training script."""

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


def default_argument_parser() -> argparse.ArgumentParser:
    """Return a parser with the arguments of Detectron2's training scripts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to the configuration file")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="ranks per machine: its GPUs, or any number on CPU")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # The same port each time for one user, so that ranks left over from an earlier run show as a taken port.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    default = f"tcp://127.0.0.1:{port}"
    parser.add_argument("--dist-url", default=default, help="address of rank 0; 'auto' takes a free port")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the configuration file")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace | None) -> None:
    """Set up loggers and seeds, log environment and configuration, and write OUTPUT_DIR/config.yaml.

    Each rank seeds the generators of Python, NumPy and torch with ``SEED + rank``, or with a random seed if SEED < 0.

    Args:
        args: ``config_file`` and ``eval_only`` are used if present.
    """
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    logger.info("Environment: %s, %s, %d cores, GPUs %s", versions, platform.platform(), os.cpu_count(), gpus)
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
    logger.info("Random seed of this rank: %d", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not getattr(args, "eval_only", False):  # the sizes of test images vary, which makes its search expensive
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


class DefaultTrainer(TrainerBase):
    """Training and resuming with a configuration, a checkpointer and a scheduler.

    Unlike Detectron2's, it has no constructor: a subclass sets the attributes and registers hooks.
    """

    cfg: CfgNode
    scheduler: torch.optim.lr_scheduler.LRScheduler
    checkpointer: DetectionCheckpointer  # saves the model and, as ``trainer``, this trainer's state
    _trainer: SimpleTrainer  # performs the step

    model = property(lambda self: self._trainer.model)
    data_loader = property(lambda self: self._trainer.data_loader)
    optimizer = property(lambda self: self._trainer.optimizer)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume all state from the last checkpoint in OUTPUT_DIR, or load only the model from ``MODEL.WEIGHTS``.

        The latter happens if ``resume`` is False or there is no checkpoint.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # a checkpoint holds the last finished iteration

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

"""The default trainer, and what a training script does before it."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import comm, hooks
from .checkpoint import DetectionCheckpointer
from .config import CfgNode
from .evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from .events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from .logger import setup_logger
from .registry import build_model
from .train_loop import HookBase, SimpleTrainer, TrainerBase


def create_ddp_model(model: nn.Module, **kwargs) -> nn.Module:
    """The model in DistributedDataParallel with ``kwargs``, on CPU or GPU; itself where there is one process."""
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs and next(model.parameters()).is_cuda:
        kwargs["device_ids"] = [comm.get_local_rank()]
    return DistributedDataParallel(model, **kwargs)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The arguments that training scripts share; ``--help`` ends with ``epilog``, examples if None."""
    script = sys.argv[0]
    parser = argparse.ArgumentParser(
        epilog=epilog
        or f"""
examples:
  train:                   {script} --config-file CONFIG.yaml
  with 8 processes:        {script} --config-file CONFIG.yaml --num-gpus 8
  with other settings:     {script} --config-file CONFIG.yaml MODEL.WEIGHTS FILE.pth SOLVER.BASE_LR 0.001
  on two machines, each:   {script} --num-machines 2 --machine-rank 0 (or 1) --dist-url tcp://HOST:PORT ...
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to the configuration file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate and don't train")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes per machine: its number of GPUs, or any number on CPU"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # The same port each time for one user, so that processes left over from an earlier run show as a taken port.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument(
        "--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet; 'auto' takes a free port"
    )
    parser.add_argument(
        "opts", default=None, nargs=argparse.REMAINDER, help="settings that replace the file's, as PATH.KEY VALUE pairs"
    )
    return parser


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, numpy and torch; from the operating system's entropy if None."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") % 2**31
        logging.getLogger(__name__).info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _environment() -> str:
    lines = [
        f"host: embedded ({__name__.rpartition('.')[0]})",
        f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {platform.platform()}",
        f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        lines.append(f"gpu {index}: {properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    return "\n".join(lines)


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a job: output folder, loggers, a record of environment and configuration, seeds.

    ``config.yaml`` with the whole configuration is written to OUTPUT_DIR. With ``SEED`` >= 0 each process seeds
    its generators with ``SEED + rank``. Of ``args``, ``config_file`` and ``eval_only`` matter if they are there.
    """
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        os.makedirs(output_dir, exist_ok=True)
    setup_logger(output_dir or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir or None, distributed_rank=rank)

    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", _environment())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with open(config_file, encoding="utf-8") as file:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, file.read())
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())
        logger.info("Full config saved to %s", path)

    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):  # images of varying size make its search cost more than it gains
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the terminal, to ``metrics.json`` and to TensorBoard files in ``output_dir``."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultTrainer(TrainerBase):
    """Training as a configuration describes it; a subclass says how to build what it needs.

    Builds model, optimizer, loader, scheduler and checkpointer in this order, and registers the default hooks. The
    step itself is done by ``_trainer``, a :class:`SimpleTrainer`, which holds model, loader and optimizer.
    ``build_optimizer``, ``build_lr_scheduler``, ``build_train_loader``, ``build_test_loader`` and
    ``build_evaluator`` are the subclass's to define.

    Attributes:
        cfg: the configuration.
        scheduler: of the learning rate, moved on after every step.
        checkpointer: saves the model and, as ``trainer``, the state of training.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("rc2l_d2").isEnabledFor(logging.INFO):  # default_setup was not called
            setup_logger()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        self._trainer = SimpleTrainer(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, with all its state, if ``resume`` and there is one; else load
        the model alone from ``MODEL.WEIGHTS``."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # a checkpoint names the iteration that was done

    def build_hooks(self) -> list[HookBase | None]:
        """Timer, learning rate, checkpoints, evaluation and, last so that they see its results, writers."""

        def test() -> dict:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        main = comm.is_main_process()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, test),  # after saving: a failure here loses nothing
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
        ]

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict | None:
        """Run the iterations from ``start_iter`` on; the last results stay in ``_last_eval_results``.

        With ``TEST.EXPECTED_RESULTS`` it returns them, or exits with status 1 where they are not as expected.
        """
        super().train(self.start_iter, self.max_iter)
        expected = self.cfg.TEST.EXPECTED_RESULTS
        if not expected or not comm.is_main_process():
            return None
        for task, metric, value, tolerance in expected:
            actual = self._last_eval_results[task].get(metric, float("nan"))
            if not abs(actual - value) <= tolerance:  # NaN is not as expected either
                logger = logging.getLogger(__name__)
                logger.error("%s/%s is %s, expected %s +- %s", task, metric, actual, value, tolerance)
                sys.exit(1)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The meta-architecture that ``MODEL.META_ARCHITECTURE`` names, on ``MODEL.DEVICE``."""
        model = build_model(cfg)
        logging.getLogger(__name__).info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        raise NotImplementedError(f"{cls.__name__} must define build_optimizer.")

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        raise NotImplementedError(f"{cls.__name__} must define build_lr_scheduler.")

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        raise NotImplementedError(f"{cls.__name__} must define build_train_loader.")

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        raise NotImplementedError(f"{cls.__name__} must define build_test_loader.")

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        raise NotImplementedError(f"{cls.__name__} must define build_evaluator.")

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate a model on every data set of ``DATASETS.TEST``.

        Args:
            evaluators: one a data set, in order; ``build_evaluator`` makes them if None.

        Returns:
            ``{data set: results}``, or the results alone where there is one data set.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        assert evaluators is None or len(evaluators) == len(names), f"{len(evaluators)} evaluators for {names}"
        results: dict = OrderedDict()
        for index, name in enumerate(names):
            data_loader = cls.build_test_loader(cfg, name)
            evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                logging.getLogger(__name__).info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results


def _of_the_step(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
        doc=f"The {name} of the step, ``_trainer``.",
    )


for _name in ("model", "data_loader", "optimizer"):
    setattr(DefaultTrainer, _name, _of_the_step(_name))

"""``rc2l-train`` and ``train_net.py``: one training or evaluation, on one rank or several."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import torch

from ..command_words import command_words
from ..config_files import find_config_file
from ..data import check_batch_sizes
from ..engine import RC2LTrainer, describe_plan, keep_freed_memory, load_config, signals_to_children
from ..engine.resumed import changed_settings
from ..engine.torchrun import run_under_torchrun
from ..errors import InputError
from ..host import HOST, HOST_REASON, CfgNode, comm, default_argument_parser, default_setup, launch, setup_logger
from ..host.process import SIGNALLED
from ..reporting import note_start, report_on
from .cli import one_sentence_errors, print_error, run_cli


def _load(args: argparse.Namespace) -> tuple[CfgNode, list[str]]:
    args.config_file = find_config_file(args.config_file)  # The host logs the file.
    warnings: list[str] = []
    cfg = load_config(args.config_file, args.opts, warnings.append)
    if args.eval_only:
        return cfg, warnings
    if args.resume and (changed := changed_settings(cfg)):
        warnings.append(changed)
    if not args.resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        raise InputError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds a run already, whose files would be replaced; give --resume to "
            "continue it, or another OUTPUT_DIR."
        )
    return cfg, warnings


def _set_up(cfg: CfgNode, warnings: list[str], args: argparse.Namespace) -> None:
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written ({error.strerror}); name another.") from error
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="rc2l_d2")
    logger.info("Host: %s (%s)", HOST, HOST_REASON)
    for warning in warnings:
        logger.warning(warning)
    default_setup(cfg, args)
    # OpenCV starts a thread for each core and ignores OMP_NUM_THREADS. Without data workers, these threads would
    # compete with torch's and with other runs.
    cv2.setNumThreads(0)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
        if comm.get_world_size() > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // comm.get_world_size()))


@contextmanager
def _kept_without_training(file: Path, eval_only: bool) -> Iterator[None]:
    """Put a file of an earlier run back if this one evaluates or is refused: it describes the checkpoints beside it."""
    # Before the ranks leave their group: without it each would be the main one.
    earlier = file.read_bytes() if comm.is_main_process() and file.is_file() else None
    kept = eval_only
    try:
        yield
    except (InputError, SystemExit):
        kept = True
        raise
    finally:
        if kept and earlier is not None:
            file.write_bytes(earlier)


def _on_all_ranks(step: Callable[[], Any]) -> Any:
    """Return ``step()``; what ranks refuse alike is printed by one of them, and all exit with status 2."""
    if comm.get_world_size() == 1:
        return step()
    result, problem = None, ""
    try:
        result = step()
    except InputError as error:
        problem = str(error)
    problems = comm.all_gather(problem)
    if any(problems):
        if problem and problems.index(problem) == comm.get_rank():
            print_error(problem)
        comm.synchronize()  # The launcher ends the other ranks when one leaves.
        # Threads of a group that is still there may abort an interpreter that exits.
        torch.distributed.destroy_process_group()
        sys.exit(2)
    return result


@one_sentence_errors()
def main(args: argparse.Namespace) -> dict:
    """Train or evaluate on one rank; return the results of the last evaluation."""
    cfg, warnings = _on_all_ranks(lambda: _load(args))
    with _kept_without_training(Path(cfg.OUTPUT_DIR, "config.yaml"), args.eval_only):
        _on_all_ranks(lambda: (_set_up(cfg, warnings, args), RC2LTrainer.check_data(cfg, args.eval_only)))
        trainer = RC2LTrainer(cfg)
        if args.eval_only:
            trainer.load_for_evaluation(resume=args.resume)
            return trainer.evaluate()
        trainer.resume_or_load(resume=args.resume)
    note_start(trainer)
    trainer.train()
    report_on(trainer)
    weights = os.path.join(cfg.OUTPUT_DIR, "teacher_final.pth")
    command = shlex.join([*command_words("predict"), "--weights", weights, "--input"])
    logging.getLogger(__name__).info("Predict with: %s FOLDER", command)
    return trainer.last_results


def start(args: argparse.Namespace) -> int:
    """Print the plan, or start :func:`main` on each rank; return the exit status."""
    if args.dry_run:
        print(describe_plan(load_config(args.config_file, args.opts)))
        return 0
    if torch.distributed.is_torchelastic_launched():
        run_under_torchrun(main, (args,))
        return 0
    gpus = torch.cuda.device_count()
    if gpus and args.num_gpus > gpus:
        raise InputError(f"--num-gpus is {args.num_gpus}, but this machine has {gpus}; give at most {gpus}.")
    if args.num_gpus < 1:
        args.num_gpus, args.opts = 1, [*args.opts, "MODEL.DEVICE", "cpu"]
    ranks = args.num_gpus * args.num_machines
    if ranks > 1 and not args.eval_only:
        # Here, because each rank would find the same mistakes after a minute of starting, and report them.
        cfg, _ = _load(args)
        check_batch_sizes(cfg, RC2LTrainer.uses_unlabeled(cfg), ranks)
    try:
        # A single rank trains in this process and handles its own signals.
        with signals_to_children() if ranks > 1 else nullcontext():
            launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except torch.multiprocessing.ProcessExitedException as error:
        # The rank has printed its InputError or its signal.
        if error.exit_code in (2, *SIGNALLED):
            return error.exit_code
        print_error(error)
        return 1
    return 0


def run() -> int:
    """Run the command line; one rank for each GPU, or as many on the CPU."""
    parser = default_argument_parser()
    parser.description = "Train or evaluate the model of a configuration file, and write a training report."
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return run_cli(parser, start)

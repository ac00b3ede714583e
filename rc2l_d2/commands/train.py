"""What ``train_net.py`` and the installed ``rc2l-train`` do: one training or evaluation, in one process or several."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import nullcontext

import cv2
import torch

from ..config_files import find_config_file
from ..data import dead_worker
from ..engine import (
    Interrupted,
    RC2LTrainer,
    describe_plan,
    keep_freed_memory,
    load_config,
    run_under_torchrun,
    signals_to_children,
    started_by_torchrun,
)
from ..errors import InputError
from ..host import (
    HOST,
    HOST_REASON,
    CfgNode,
    comm,
    default_argument_parser,
    default_setup,
    launch,
    setup_logger,
)
from ..host.process import SIGNALLED
from ..reporting import note_start, report_on


def setup(args: argparse.Namespace) -> CfgNode:
    """Configuration, logging, seeds and threads of this process."""
    args.config_file = find_config_file(args.config_file)  # The host reads it once more, for the log.
    cfg = load_config(args.config_file, args.opts)
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} cannot be written ({error.strerror}); name another."
        ) from error
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="rc2l_d2")
    logger.info("Host: %s (%s)", HOST, HOST_REASON)
    default_setup(cfg, args)
    # Where images are read in the process that trains, OpenCV's own pool, a thread for each core whatever
    # OMP_NUM_THREADS says, would take the cores from torch and from runs beside this one.
    cv2.setNumThreads(0)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
        if comm.get_world_size() > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // comm.get_world_size()))
    return cfg


def warn_of_other_run(folder: str) -> None:
    """Say that ``folder`` holds a run already, if it does: its checkpoints are replaced, its metrics.json goes on."""
    if os.path.exists(os.path.join(folder, "last_checkpoint")):
        logging.getLogger(__name__).warning(
            "OUTPUT_DIR %s holds a run already: its checkpoints are replaced, and its curves go on with this one's. "
            "Go on with that run by --resume, or delete the folder, or name another.", folder,
        )  # fmt: skip


def main(args: argparse.Namespace) -> dict:
    """One process of a run; returns the last evaluation's results."""
    try:
        cfg = setup(args)
        RC2LTrainer.check_data(cfg, args.eval_only)
        trainer = RC2LTrainer(cfg)
        if args.eval_only:
            trainer.load_for_evaluation(resume=args.resume)
            return trainer.evaluate()
        if not args.resume:
            warn_of_other_run(cfg.OUTPUT_DIR)
        trainer.resume_or_load(resume=args.resume)
        note_start(trainer, args.config_file, args.opts)
        trainer.train()
        report_on(trainer)
        return trainer.last_results
    except Interrupted as end:
        if comm.is_main_process():
            print(f"{os.path.basename(sys.argv[0])}: {end}", file=sys.stderr)
        comm.synchronize()  # the launcher ends the others when one leaves
        sys.exit(end.status)
    except (InputError, RuntimeError) as error:
        message = str(error) if isinstance(error, InputError) else dead_worker(error)
        if message is None:
            raise
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Parse the command line and start one process for each GPU (or as many CPU processes)."""
    parser = default_argument_parser()
    parser.description = "Train or evaluate a model as a configuration file says, and write a page on the run."
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    args = parser.parse_args()
    if args.dry_run:
        try:
            print(describe_plan(load_config(args.config_file, args.opts)))
        except InputError as error:
            print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
            sys.exit(2)
        return
    if started_by_torchrun():
        run_under_torchrun(main, (args,))
        return
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        parser.error(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}; ask for no more"
        )
    try:
        # A single process trains right here, and a signal is its own.
        with signals_to_children() if args.num_gpus * args.num_machines > 1 else nullcontext():
            launch(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except torch.multiprocessing.ProcessExitedException as error:
        # A process that met an InputError, or was told to end, has said so itself.
        said = error.exit_code in (2, *SIGNALLED)
        if not said:
            print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(error.exit_code if said else 1)

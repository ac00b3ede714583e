#!/usr/bin/env python3
"""What a training step needs: peak memory and time by crop size, images per pass and precision.

    python tools/dev/bench/memory.py --config-file configs/voc2012/rc2l_R101_1_16.yaml
        [--crops 256,384,512x1024] [--passes 0,4,2,1] [--precisions float32,mixed] [--rounds 5] [KEY VALUE ...]

The step is the trainer's own, after burn-in, teacher update included, on random images: no data set is read. Each row
is a process of its own. Peak memory is on CUDA all that torch has allocated at a time, weights, teacher and optimizer
included (the driver's own few hundred MB come on top), on a CPU all that the process has had resident, libraries
included. KEY VALUE pairs as train_net.py takes them: SOLVER.IMS_PER_BATCH 8 SOLVER.IMS_PER_BATCH_UNLABELED 8.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import cv2
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cases import random_batch  # noqa: E402
from measure import in_turn, machine, median_ms, run  # noqa: E402

from rc2l_d2.engine import EMATeacher, SemiSupervisedTrainer, build_optimizer, load_config  # noqa: E402
from rc2l_d2.engine.progress import peak_memory  # noqa: E402
from rc2l_d2.errors import InputError, is_out_of_memory  # noqa: E402
from rc2l_d2.host import EventStorage, build_model  # noqa: E402


def measure(config: str, options: list[str], rounds: int) -> dict[str, float] | None:
    """Peak MiB and seconds of a step in this process; None where it does not fit into memory."""
    cfg = load_config(config, [*options, "MODEL.WEIGHTS", ""])
    cv2.setNumThreads(0)
    try:
        model = build_model(cfg).train()
        teacher = EMATeacher(model, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY)
        batches = itertools.repeat(random_batch(cfg, model.uses_unlabeled))
        trainer = SemiSupervisedTrainer(cfg, model, batches, build_optimizer(cfg, model), teacher)
        # The weight of the unlabelled losses is full from here on.
        trainer.iter = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS + cfg.MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS

        def step() -> None:
            trainer.run_step()
            teacher.update(model)
            trainer.iter += 1

        with EventStorage(trainer.iter):
            seconds = in_turn({"step": step}, rounds, trainer.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    images = cfg.SOLVER.IMS_PER_BATCH + (cfg.SOLVER.IMS_PER_BATCH_UNLABELED if model.uses_unlabeled else 0)
    return {"MiB": peak_memory(), "seconds": median_ms(seconds, "step") / 1e3, "images": images}


def in_process(arguments: list[str]) -> dict[str, float] | None:
    """:func:`measure` in a process of its own; one that the system has killed did not fit either.

    Raises:
        InputError: it failed otherwise; in its own words.
    """
    result = subprocess.run([sys.executable, __file__, "--one", *arguments], capture_output=True, text=True)
    if result.returncode == -9:
        return None
    if result.returncode:
        raise InputError(result.stderr.strip().splitlines()[-1])
    return json.loads(result.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--crops", default="256,384,512", help="pixels: 512, or 512x1024 (height x width)")
    parser.add_argument("--passes", default="0,4,2,1", help="images that go through the model together; 0: all")
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as train_net.py takes them")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.config_file, args.opts, args.rounds)))
        return 0
    device = torch.device(load_config(args.config_file, args.opts).MODEL.DEVICE)
    head = ["--config-file", args.config_file, "--rounds", str(args.rounds), *args.opts]
    rows = []
    cases = (args.crops.split(","), args.passes.split(","), args.precisions.split(","))
    for crop, size, precision in itertools.product(*cases):
        height, _, width = crop.partition("x")
        case = ["INPUT.CROP.SIZE", f"({height},{width or height})", "SOLVER.IMS_PER_PASS", size]
        found = in_process([*head, *case, "SOLVER.AMP.ENABLED", str(precision == "mixed")])
        cells = ["does not fit", "", ""]
        if found is not None:
            cells = [f"{found['MiB']:.0f}", f"{found['seconds']:.3f}", f"{found['images'] / found['seconds']:.1f}"]
        rows.append([f"{height}x{width or height}", "all" if size == "0" else size, precision, *cells])
    titles = ["crop", "images a pass", "precision", "peak MiB", "s a step", "images/s"]
    print(f"{args.config_file} {' '.join(args.opts)}\n{machine(device)}; {args.rounds} rounds\n")
    print(tabulate(rows, titles, disable_numparse=True))
    return 0


if __name__ == "__main__":
    run(main)

"""Peak memory and time of a training step by crop size, micro-batch and precision.

    python tools/dev/bench/memory.py --config-file configs/voc2012/rc2l_R101.yaml
        [--crops 256,384,512x1024] [--passes 0,4,2,1] [--precisions float32,mixed] [--rounds 5] [KEY VALUE ...]

Runs the trainer's step after burn-in on random images. Memory is torch's on CUDA, the resident memory on a CPU.
"""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2
import torch
from measure import in_turn, median_ms, options, print_table, run, step_on_noise

from rc2l_d2.engine import load_config
from rc2l_d2.engine.progress import peak_memory
from rc2l_d2.errors import is_out_of_memory
from rc2l_d2.host import EventStorage


def measure(config: str, overrides: list[str], rounds: int) -> tuple[str, str, str] | None:
    """Return the cells of a row, measured in this process; None if the step does not fit into memory."""
    cfg = load_config(config, [*overrides, "MODEL.WEIGHTS", ""])
    cv2.setNumThreads(0)
    try:
        trainer, step = step_on_noise(cfg)
        with EventStorage(trainer.iter):
            seconds = median_ms(in_turn({"step": step}, rounds, trainer.device), "step") / 1e3
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    images = cfg.SOLVER.IMS_PER_BATCH + (cfg.SOLVER.IMS_PER_BATCH_UNLABELED if trainer.student.uses_unlabeled else 0)
    return f"{peak_memory():.0f}", f"{seconds:.3f}", f"{images / seconds:.1f}"


def in_own_process(*arguments: object) -> tuple[str, str, str]:
    """Run :func:`measure` in its own process, which the system may kill for its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *arguments).result() or ("does not fit", "", "")
        except BrokenProcessPool:
            return "does not fit", "", ""


def main() -> None:
    parser = options(__doc__, rounds=5, config=True)
    parser.add_argument("--crops", default="256,384,512", help="pixels: 512, or 512x1024 (height x width)")
    parser.add_argument("--passes", default="0,4,2,1", help="images per micro-batch (SOLVER.IMS_PER_PASS); 0: all")
    parser.add_argument("--precisions", default="float32,mixed")
    args = parser.parse_args()
    device = torch.device(load_config(args.config_file, args.opts).MODEL.DEVICE)
    rows = []
    cases = itertools.product(args.crops.split(","), args.passes.split(","), args.precisions.split(","))
    for crop, size, precision in cases:
        height, _, width = crop.partition("x")
        case = ["INPUT.CROP.SIZE", f"({height},{width or height})", "SOLVER.IMS_PER_PASS", size]
        overrides = [*args.opts, *case, "SOLVER.AMP.ENABLED", str(precision == "mixed")]
        cells = in_own_process(args.config_file, overrides, args.rounds)
        rows.append([f"{height}x{width or height}", "all" if size == "0" else size, precision, *cells])
    titles = ["crop", "images per micro-batch", "precision", "peak MiB", "s per step", "images/s"]
    print_table(args, "", device, rows, titles, disable_numparse=True)


if __name__ == "__main__":
    run(main)

"""Memory and time of several ranks with whole and with sharded optimizer state (SOLVER.SHARD_OPTIMIZER).

    python tools/dev/bench/sharded.py --config-file configs/voc2012/rc2l_dinov2_b.yaml [--ranks 2] [--rounds 3]
        [KEY VALUE ...]

Each rank runs the trainer's step after burn-in on SOLVER.IMS_PER_BATCH labelled and IMS_PER_BATCH_UNLABELED unlabelled
images of noise, then all gather the optimizer's state as for a checkpoint. Memory is torch's on CUDA, the resident
memory on a CPU.
"""

import json
import tempfile
import time
from pathlib import Path

import cv2
import torch
from measure import in_turn, median_ms, options, print_table, run, step_on_noise

from rc2l_d2.engine import load_config
from rc2l_d2.engine.progress import peak_memory
from rc2l_d2.host import EventStorage, comm, launch


def measure(config: str, overrides: list[str], rounds: int, result: Path) -> None:
    """Write the numbers of all ranks to ``result``; called on each rank."""
    cfg = load_config(config, [*overrides, "MODEL.WEIGHTS", ""])
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    trainer, step = step_on_noise(cfg)
    with EventStorage(trainer.iter):
        milliseconds = median_ms(in_turn({"step": step}, rounds, trainer.device), "step")
    optimizer, peak = trainer.optimizer, peak_memory()
    states = getattr(optimizer, "optim", optimizer).state.values()
    size = sum(value.nbytes for state in states for value in state.values()) / 2**20
    comm.synchronize()
    start = time.perf_counter()
    getattr(optimizer, "gather_state", comm.synchronize)()
    numbers = comm.gather([size, peak, peak_memory(), milliseconds / 1e3, time.perf_counter() - start])
    if comm.is_main_process():
        result.write_text(json.dumps(numbers))


def main() -> None:
    parser = options(__doc__, rounds=3, config=True, ranks=2)
    args = parser.parse_args()
    device = torch.device(load_config(args.config_file, args.opts).MODEL.DEVICE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for sharded in ("False", "True"):
            result = Path(folder, sharded)
            overrides = [*args.opts, "SOLVER.SHARD_OPTIMIZER", sharded]
            launch(measure, args.ranks, dist_url="auto", args=(args.config_file, overrides, args.rounds, result))
            for rank, numbers in enumerate(json.loads(result.read_text())):
                rows.append(["sharded" if sharded == "True" else "whole", rank, *numbers])
    titles = ["state", "rank", "its size, MiB", "peak MiB", "peak MiB with gathering", "s per step", "s to gather"]
    print_table(args, f"{args.ranks} ranks", device, rows, titles, floatfmt=("", "", ".0f", ".0f", ".0f", ".2f", ".1f"))


if __name__ == "__main__":
    run(main)

"""Shared code of the benchmarks: command-line options, random inputs, timing in turn, peak memory, and tables.

They need ``pip install -e .``. Times are compared round by round, so that other load on the machine affects all alike.
"""

import argparse
import gc
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from tabulate import tabulate
from torch.nn import functional as F

from rc2l_d2.commands.cli import one_sentence_errors
from rc2l_d2.engine import EMATeacher, SemiSupervisedTrainer, build_optimizer, keep_freed_memory
from rc2l_d2.engine.data_parallel import data_parallel
from rc2l_d2.host import CfgNode, build_model
from rc2l_d2.regions import Regions, TeacherPrediction, teacher_prediction
from rc2l_d2.reporting import hardware

Seconds = dict[str, list[float]]


def options(description: str, rounds: int, config: bool = False, **integers: int) -> argparse.ArgumentParser:
    """Return a parser with --rounds, more integer options, and either --device or --config-file with overrides."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rounds": rounds, **integers}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    if config:
        parser.add_argument("--config-file", required=True)
        parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    else:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        parser.add_argument("--device", type=torch.device, default=default)
    return parser


def random_batch(cfg: CfgNode, uses_unlabeled: bool) -> tuple[list[dict], list[dict]]:
    """Return labelled and unlabelled samples of noise in the form of the loader; labels are stripes of 16 classes."""
    generator = torch.Generator().manual_seed(0)
    height, width = cfg.INPUT.CROP.SIZE

    def images(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)

    stripes = torch.arange(height) * 16 // height % cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    label = stripes.to(torch.uint8)[:, None].repeat(1, width)
    inside = torch.ones(height, width, dtype=torch.bool)
    labeled = [{"file_name": "", "image": x, "sem_seg": label} for x in images(cfg.SOLVER.IMS_PER_BATCH)]
    weak = images(cfg.SOLVER.IMS_PER_BATCH_UNLABELED if uses_unlabeled else 0)
    views = cfg.MODEL.SEMI_SUPERVISED.STRONG_VIEWS
    unlabeled = [
        {"file_name": "", "image": x, "strong": torch.stack([255 - x] * views), "inside": inside} for x in weak
    ]
    return labeled, unlabeled


def step_on_noise(cfg: CfgNode) -> tuple[SemiSupervisedTrainer, Callable[[], None]]:
    """Return a trainer after burn-in and ramp-up, and its step on a batch of noise, with the teacher's update."""
    model = build_model(cfg).train()
    teacher = EMATeacher.from_config(cfg, model)
    batches = itertools.repeat(random_batch(cfg, model.uses_unlabeled))
    optimizer, student = build_optimizer(cfg, model), data_parallel(cfg, model)
    trainer = SemiSupervisedTrainer(cfg, student, batches, optimizer, teacher)
    trainer.iter = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS + cfg.MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS

    def step() -> None:
        trainer.run_step()
        teacher.update(model)
        trainer.iter += 1

    return trainer, step


def random_case(
    images: int, queries: int, classes: int, channels: int, size: int, device: torch.device
) -> tuple[Regions, TeacherPrediction]:
    """Return a student's regions (leaves that require gradients) and a teacher prediction with blobs of all classes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    regions = Regions(
        random(images, queries, classes + 1).requires_grad_(),
        random(images, queries, size, size).requires_grad_(),
        random(images, channels, size, size).requires_grad_(),
    )
    coarse = random(images, classes, 8, 8)
    scores = F.interpolate(coarse, size=(size, size), mode="bilinear")
    inside = torch.ones(images, size, size, dtype=torch.bool, device=device)
    teacher = teacher_prediction(scores.mul(4).softmax(dim=1), random(images, channels, size, size), inside)
    return regions, teacher


def in_turn(parts: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 2) -> Seconds:
    """Return the seconds of each part in each round; ``warmup`` rounds are not counted, every other one is reversed."""
    if device.type == "cpu":
        keep_freed_memory()  # as in training
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: Seconds = {name: [] for name in parts}
    for number in range(-warmup, rounds):
        for name in parts if number % 2 else reversed(parts):
            wait()
            start = time.perf_counter()
            parts[name]()
            wait()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Seconds, part: str, whole: str) -> str:
    """Return ``part / whole``, computed per round, as "median (lower to upper quartile)"."""
    quotients = [a / b for a, b in zip(seconds[part], seconds[whole], strict=True)]
    low, middle, high = statistics.quantiles(quotients * 2 if len(quotients) == 1 else quotients, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def median_ms(seconds: Seconds, part: str) -> float:
    """Return the median time of a part, milliseconds."""
    return 1e3 * statistics.median(seconds[part])


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Return the peak memory (MB, 10^6 bytes) that torch allocates in ``work``, beyond what was allocated before.

    On a CPU it comes from the profiler's record of the allocator, without scratch memory of libraries.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    # Not record.events(): its sums per operator hide memory that was freed before the operator's end.
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in changes), initial=0)) / 1e6


def print_table(
    args: argparse.Namespace, subject: str, device: torch.device, rows: list, columns: list[str], **options
) -> None:
    """Print the configuration and ``subject``, the machine, the rounds, and a table with ``options`` of tabulate."""
    config = [args.config_file, *args.opts] if "config_file" in args else []
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
    print(*config, subject)
    print(f"{hardware()}{threads}; torch {torch.__version__}, Python {platform.python_version()}; {args.rounds} rounds")
    print(f"\n{tabulate(rows, columns, **options)}")


def run(main: Callable[[], None]) -> NoReturn:
    """Exit with status 0 after ``main``, or with 2 and one sentence after an InputError."""
    with one_sentence_errors():
        main()
    sys.exit(0)

"""Shared code of the benchmarks: command-line options, timing in turn, peak memory, and a line about the machine.

They need ``pip install -e .``. Times are compared round by round, so that other load on the machine affects all alike.
"""

from __future__ import annotations

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

from rc2l_d2.commands.cli import one_sentence_errors
from rc2l_d2.engine import keep_freed_memory
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


def machine(device: torch.device) -> str:
    """Return one line about the machine and the versions."""
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
    return f"{hardware()}{threads}; torch {torch.__version__}, Python {platform.python_version()}"


def run(main: Callable[[], None]) -> NoReturn:
    """Exit with status 0 after ``main``, or with 2 and one sentence after an InputError."""
    with one_sentence_errors():
        main()
    sys.exit(0)

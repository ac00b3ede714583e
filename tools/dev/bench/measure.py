"""What the benchmarks share: timing in turn, memory, and a sentence on the machine.

Times are only ever compared within one run, round by round: whatever else the machine does then meets all alike.
"""

from __future__ import annotations

import gc
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from rc2l_d2.engine import keep_freed_memory
from rc2l_d2.errors import InputError
from rc2l_d2.reporting import hardware

Seconds = dict[str, list[float]]


def in_turn(parts: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 2) -> Seconds:
    """Seconds of each part in each of ``rounds`` rounds; a round calls every part once, ``warmup`` rounds don't count.

    Every other round goes backwards, so that no part always follows the same one.
    """
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    seconds: Seconds = {name: [] for name in parts}
    for number in range(-warmup, rounds):
        for name in parts if number % 2 else reversed(parts):
            synchronize(device)
            start = time.perf_counter()
            parts[name]()
            synchronize(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Seconds, part: str, whole: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of ``part / whole``, formed round by round."""
    quotients = [a / b for a, b in zip(seconds[part], seconds[whole], strict=True)]
    if len(quotients) == 1:
        return (quotients[0],) * 3
    low, middle, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return low, middle, high


def median_ms(seconds: Seconds, part: str) -> float:
    """Median of a part, milliseconds."""
    return 1e3 * statistics.median(seconds[part])


def quartiles(values: tuple[float, float, float]) -> str:
    """A ratio as the tables have it: median (lower to upper quartile)."""
    low, middle, high = values
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """MB (a million bytes) that ``work`` has torch allocate at most, beyond what is there before it.

    On a CPU added up from the profiler's record of the allocator, since what the process has resident depends on what
    it kept of earlier work; libraries' scratch memory is not in it.
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
    # Not record.events(): those have an operator's allocations added up, and so what it gave back before its end.
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in changes), initial=0)) / 1e6


def run(main: Callable[[], int]) -> NoReturn:
    """Leave with the status of ``main``, or with 2 and one sentence where a setting or a file cannot be used."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def machine(device: torch.device) -> str:
    """One line on what the figures were measured with."""
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
    return f"{hardware()}{threads}; torch {torch.__version__}, Python {platform.python_version()}"

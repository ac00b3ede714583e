"""What the benchmarks share: timing in turn, memory, and a sentence on the machine.

Times are only ever compared within one run, round by round: whatever else the machine does then meets all alike.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from rc2l_d2.engine import keep_freed_memory
from rc2l_d2.reporting import hardware

Seconds = dict[str, list[float]]
_PAGE_KB = 4  # less than a page the kernel cannot tell


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
    """MB that ``work`` needs at most beyond what is there before it.

    On CUDA what torch allocates. On a CPU what the kernel counts as the process's highest resident memory, after the
    memory that was freed has been given back; that is Linux and the GNU C library.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kb("VmRSS")
    work()
    return max(_status_kb("VmHWM") - before, _PAGE_KB) / 1e3


def _status_kb(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)


def machine(device: torch.device) -> str:
    """One line on what the figures were measured with."""
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
    return f"{hardware()}{threads}; torch {torch.__version__}, Python {platform.python_version()}"

"""The numbers of a run: metrics.json read back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..engine.step_log import LOG_PERIOD

STUDENT, TEACHER = "sem_seg", "sem_seg_teacher"


def read_entries(metrics_file: Path) -> Iterator[dict[str, float]]:
    """Yield the lines of a metrics.json; none without the file. A line that a killed run left unfinished is skipped."""
    lines = metrics_file.read_text(encoding="utf-8").splitlines() if metrics_file.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "iteration" in entry:
            yield entry


def read_scalars(metrics_file: Path, max_iter: int) -> dict[str, dict[int, float]]:
    """Return all numbers of a metrics.json, see :func:`collect_scalars`; empty without the file."""
    return collect_scalars(read_entries(metrics_file), max_iter)


def collect_scalars(entries: Iterable[Mapping[str, float]], max_iter: int) -> dict[str, dict[int, float]]:
    """Return all numbers of a run: name -> finished iterations -> value.

    A number that comes again for an earlier iteration means that the run was resumed, or that another one started in
    the same folder. The numbers of later iterations are then dropped.

    Args:
        entries: lines of metrics.json.
        max_iter: iterations of the whole run.
    """
    scalars: dict[str, dict[int, float]] = {}
    for entry in entries:
        # During training "iteration" is the one just finished; after training it is the next one.
        done = min(int(entry["iteration"]) + 1, max_iter)
        values = {name: value for name, value in entry.items() if name != "iteration"}
        # Compare the numbers, not the lines: one write may put a later iteration's line before an earlier one's.
        if any(done <= next(reversed(scalars[name])) for name in values if name in scalars):
            kept = {name: {i: x for i, x in known.items() if i <= done} for name, known in scalars.items()}
            scalars = {name: known for name, known in kept.items() if known}
        for name, value in values.items():
            scalars.setdefault(name, {})[done] = value
    return scalars


def step_seconds(scalars: Mapping[str, Mapping[int, float]], burn_in: int) -> float | None:
    """Return the median time of a training step after burn-in in seconds; None before anything was logged.

    A step is reading, teacher, forward, backward and update, without hooks (evaluation, checkpoints, EMA).
    """
    # Each logged time is the median of the last LOG_PERIOD iterations, all of which must come after burn-in.
    times = [value for done, value in scalars.get("time", {}).items() if done - LOG_PERIOD >= burn_in]
    return statistics.median(times) if times else None

"""What finished runs gave: metrics.json read back, and means over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.step_log import LOG_PERIOD

STUDENT, TEACHER = "sem_seg", "sem_seg_teacher"


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        evaluations: iterations done -> the evaluation then, as metrics.json names it ("sem_seg/mIoU": percent).
        max_iter: iterations of the whole run.
        iterations: the last iteration that was logged, counted from 1; 0 before the first line.
        seconds: of a whole step after burn-in: reading, teacher, forward, backward and update, without the hooks
            (evaluation, checkpoints, the moving average). Median of what was logged; None before anything was.
    """

    evaluations: Mapping[int, Mapping[str, float]]
    max_iter: int
    iterations: int
    seconds: float | None

    @property
    def complete(self) -> bool:
        """Whether student and teacher were evaluated after the last iteration."""
        last = self.evaluations.get(self.max_iter, {})
        return all(f"{task}/mIoU" in last for task in (STUDENT, TEACHER))

    def curve(self, task: str) -> dict[int, float]:
        """Iterations done -> mIoU in percent."""
        return {done: scores[f"{task}/mIoU"] for done, scores in sorted(self.evaluations.items())}

    def last(self, task: str) -> float:
        """mIoU in percent after the last iteration."""
        return self.evaluations[self.max_iter][f"{task}/mIoU"]

    def best(self, task: str) -> float:
        """Highest mIoU in percent of the run's evaluations."""
        return max(self.curve(task).values())

    def class_ious(self, task: str) -> dict[str, float]:
        """Class -> IoU in percent after the last iteration; NaN for a class that no test image holds."""
        prefix = f"{task}/IoU-"
        last = self.evaluations[self.max_iter]
        return {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class Cell:
    """The complete runs of one method on one draw, by seed, of so many that were planned."""

    method: str
    draw: str
    runs: Mapping[int, RunResult]
    planned: int

    def class_means(self, task: str) -> dict[str, float]:
        """Class -> mean IoU over seeds; empty without a run."""
        ious = [run.class_ious(task) for run in self.runs.values()]
        return {name: mean_and_std(iou[name] for iou in ious)[0] for name in (ious[0] if ious else ())}

    def mean_curve(self, task: str) -> dict[int, tuple[float, float]]:
        """Iterations done -> (mean, standard deviation) over the seeds evaluated then (0 for one)."""
        curves = [run.curve(task) for run in self.runs.values()]
        iterations = sorted({done for curve in curves for done in curve})
        return {done: mean_and_std(curve[done] for curve in curves if done in curve) for done in iterations}


def read_entries(metrics_file: Path) -> Iterator[dict[str, float]]:
    """What the lines of a metrics.json hold, none without the file; one that a killed run left unfinished is passed
    over."""
    lines = metrics_file.read_text(encoding="utf-8").splitlines() if metrics_file.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "iteration" in entry:
            yield entry


def read_scalars(metrics_file: Path, max_iter: int) -> dict[str, dict[int, float]]:
    """Every number of a metrics.json: its name -> iterations done -> value.

    Where a number comes again for an earlier iteration, a run was resumed or a new one started in the same folder: what
    was logged of later iterations is no part of it.

    Args:
        metrics_file: one JSON object a line; without one there are no numbers.
        max_iter: iterations of the whole run.
    """
    scalars: dict[str, dict[int, float]] = {}
    for entry in read_entries(metrics_file):
        done = _iterations_done(entry, max_iter)
        values = {name: value for name, value in entry.items() if name != "iteration"}
        # By the numbers, not by the lines: one writing may put a later iteration's line before an earlier one's.
        if any(done <= next(reversed(scalars[name])) for name in values if name in scalars):
            kept = {name: {i: x for i, x in known.items() if i <= done} for name, known in scalars.items()}
            scalars = {name: known for name, known in kept.items() if known}
        for name, value in values.items():
            scalars.setdefault(name, {})[done] = value
    return scalars


def read_result(metrics_file: Path, max_iter: int, burn_in: int) -> RunResult:
    """Read a run's metrics.json; a file that does not exist is a run that was never evaluated.

    A resumed run repeats iterations: the last line counts. A line that a killed run left unfinished is passed over.

    Args:
        metrics_file: one JSON object a line.
        max_iter: iterations of the whole run.
        burn_in: iterations whose time does not count, as the method does less in them.
    """
    evaluations: dict[int, dict[str, float]] = {}
    seconds: dict[int, float] = {}
    iterations = 0
    for entry in read_entries(metrics_file):
        done = _iterations_done(entry, max_iter)
        iterations = max(iterations, done)
        if f"{STUDENT}/mIoU" in entry:
            evaluations[done] = {key: value for key, value in entry.items() if key.startswith(STUDENT)}
        # What is logged is the median of the last LOG_PERIOD iterations: all of them have to lie after burn-in.
        if "time" in entry and done - LOG_PERIOD >= burn_in:
            seconds[done] = entry["time"]
    return RunResult(evaluations, max_iter, iterations, statistics.median(seconds.values()) if seconds else None)


def _iterations_done(entry: Mapping[str, float], max_iter: int) -> int:
    # Within training a line names the iteration that was just done, after training the one that would be next.
    return min(int(entry["iteration"]) + 1, max_iter)


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    numbers = list(values)
    if not all(math.isfinite(number) for number in numbers):
        return math.nan, math.nan
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0

"""What the steps say for the log: kept on the device over a period, then fetched in one copy."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..host import comm, get_event_storage
from .advice import Advice
from .telemetry import PseudoLabelTelemetry

logger = logging.getLogger(__name__)

# Scalars are fetched from the device and gathered over processes this often (iterations), as often as they are written.
LOG_PERIOD = 20


@dataclass(frozen=True)
class _Step:
    iteration: int
    losses: Mapping[str, Tensor | float]
    gradient: Tensor | float
    data_time: float
    files: Sequence[str]


class StepLog:
    """Losses of the steps and counts of the pseudo labels since they were last written.

    Nothing waits for the device in between, and yet the losses of every step are looked at: one that is not a number in
    the middle of a period is found at its end.

    Attributes:
        telemetry: takes the counts.
        advice: says what looks wrong.
    """

    def __init__(self, class_names: Sequence[str], bears_infinite_gradients: bool = False) -> None:
        """
        Args:
            class_names: K names.
            bears_infinite_gradients: whether a gradient may be infinite or no number in some steps, though not in all.
        """
        self.telemetry = PseudoLabelTelemetry(class_names)
        self.advice = Advice(class_names)
        self.bears_infinite_gradients = bears_infinite_gradients
        self._steps: list[_Step] = []

    def add(
        self, iteration: int, losses: Mapping[str, Tensor], gradient: Tensor, data_time: float, files: Sequence[str]
    ) -> None:
        """Take a step's scalar losses, its gradient's norm, the seconds that it waited for its images, their names."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        self._steps.append(_Step(iteration, detached, gradient.detach(), data_time, files))

    def write(self) -> None:
        """Put into the storage of events, over all processes, which all have to call it:

        - each loss, ``total_loss`` and the gradient's norm: median over the steps of the mean over the processes;
        - ``data_time``: median over the steps of the longest wait of a process;
        - what :class:`PseudoLabelTelemetry` tells.

        What :class:`Advice` finds in them is a warning in the log.

        Raises:
            FloatingPointError: a loss or gradient of some step is not finite on some process; raised on all of them, or
                those of other machines would wait for that one until they time out. Names the losses and the images.
        """
        if not self._steps:
            return
        steps, counts = self._fetch()
        processes, everyones_counts = zip(*comm.all_gather((steps, counts)), strict=True)
        self._check_finite(processes)
        scalars = _scalars(processes)
        storage = get_event_storage()
        storage.put_scalars(**scalars)
        totals = {name: sum(theirs[name] for theirs in everyones_counts) for name in counts}
        # Not smoothed by the writers: these are means over the period already.
        storage.put_scalars(**self.telemetry.shares(totals), smoothing_hint=False)
        for sentence in self.advice.look(steps[-1].iteration, totals, scalars):
            if comm.is_main_process():
                logger.warning(sentence)

    def _fetch(self) -> tuple[list[_Step], dict[str, Tensor]]:
        """Steps and counts of this process, on the host by one copy; the next period begins."""
        steps, self._steps = self._steps, []
        counts = self.telemetry.take()
        scalars = [scalar for step in steps for scalar in (*step.losses.values(), step.gradient)]
        # float64 holds every count that a run can reach.
        values = torch.cat([value.double().flatten() for value in [*scalars, *counts.values()]]).cpu()
        parts = values[len(scalars) :].split([count.numel() for count in counts.values()])
        numbers = iter(values[: len(scalars)].tolist())
        fetched = [
            replace(step, losses={name: next(numbers) for name in step.losses}, gradient=next(numbers))
            for step in steps
        ]
        return fetched, {
            name: part.view(count.shape) for (name, count), part in zip(counts.items(), parts, strict=True)
        }

    def _check_finite(self, processes: Sequence[Sequence[_Step]]) -> None:
        steps_of_all = [*zip(*processes, strict=True)]
        for steps in steps_of_all:
            bad = [{name: loss for name, loss in step.losses.items() if not math.isfinite(loss)} for step in steps]
            if any(bad):
                where = "; ".join(
                    f"process {rank}: {losses}, images {', '.join(step.files)}"
                    for rank, (losses, step) in enumerate(zip(bad, steps, strict=True))
                    if losses
                )
                raise FloatingPointError(f"Losses not finite at iteration {steps[0].iteration}: {where}")
        # The same on all processes, over which it was averaged.
        left_out = [steps for steps in steps_of_all if not math.isfinite(steps[0].gradient)]
        if left_out and (not self.bears_infinite_gradients or len(left_out) == len(steps_of_all) >= LOG_PERIOD):
            files = ", ".join(file for step in left_out[0] for file in step.files)
            raise FloatingPointError(f"Gradient not finite at iteration {left_out[0][0].iteration}: images {files}")


def _scalars(processes: Sequence[Sequence[_Step]]) -> dict[str, float]:
    """Losses, their sum and the waiting time, of what every process did in the same steps."""
    histories: dict[str, list[float]] = {}
    for steps in zip(*processes, strict=True):
        means = {name: statistics.fmean(step.losses[name] for step in steps) for name in steps[0].losses}
        waited = max(step.data_time for step in steps)
        others = {"data_time": waited, "gradient_norm": steps[0].gradient, "total_loss": sum(means.values())}
        for name, value in {**others, **means}.items():
            histories.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in histories.items()}

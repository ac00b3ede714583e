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
        bad_steps: how many steps of the run were not finite and have been told.
    """

    def __init__(
        self, class_names: Sequence[str], bears_infinite_gradients: bool = False, max_bad_steps: int = 0
    ) -> None:
        """
        Args:
            class_names: K names.
            bears_infinite_gradients: whether a gradient may be infinite or no number in some steps, though not in all.
            max_bad_steps: how many other steps of the run may be so, with their losses or without.
        """
        self.telemetry = PseudoLabelTelemetry(class_names)
        self.bears_infinite_gradients = bears_infinite_gradients
        self.max_bad_steps = max_bad_steps
        self.bad_steps = 0
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

        A step that is not finite, and may be, is told in the log and left out of the medians.

        Raises:
            FloatingPointError: a loss or gradient of some step is not finite on some process, and too many were;
                raised on all of them, or those of other machines would wait for that one until they time out. Names
                the losses and the images.
        """
        if not self._steps:
            return
        steps, counts = self._fetch()
        processes, everyones_counts = zip(*comm.all_gather((steps, counts)), strict=True)
        finite = self._finite([*zip(*processes, strict=True)])
        storage = get_event_storage()
        storage.put_scalars(**_scalars(finite))
        totals = {name: sum(theirs[name] for theirs in everyones_counts) for name in counts}
        # Not smoothed by the writers: these are means over the period already.
        storage.put_scalars(**self.telemetry.shares(totals), smoothing_hint=False)

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

    def _finite(self, steps: Sequence[Sequence[_Step]]) -> list[Sequence[_Step]]:
        """Those of the steps, each as all processes did it, that count."""
        # The gradient is the same on all processes, over which it was averaged.
        scaling = [not math.isfinite(step[0].gradient) and not _bad_losses(step) for step in steps]
        borne = self.bears_infinite_gradients and not (all(scaling) and len(steps) >= LOG_PERIOD)
        finite = []
        for step, only_gradient in zip(steps, scaling, strict=True):
            bad = _bad_losses(step) or (only_gradient and not borne)
            if not bad:
                finite.append(step)
                continue
            self.bad_steps += 1
            told = _tell(step)
            # A finite gradient has moved the weights, whatever the loss was.
            if self.bad_steps > self.max_bad_steps or math.isfinite(step[0].gradient):
                raise FloatingPointError(told)
            logger.warning(
                "%s; the step is left out, bad step %d of the %d that SOLVER.MAX_BAD_STEPS allows.",
                told, self.bad_steps, self.max_bad_steps,
            )  # fmt: skip
        return finite


def _bad_losses(step: Sequence[_Step]) -> dict[int, dict[str, float]]:
    """Process -> its losses that are not finite, of the processes that have such."""
    losses = {
        rank: {name: loss for name, loss in mine.losses.items() if not math.isfinite(loss)}
        for rank, mine in enumerate(step)
    }
    return {rank: bad for rank, bad in losses.items() if bad}


def _tell(step: Sequence[_Step]) -> str:
    bad = _bad_losses(step)
    if not bad:
        files = ", ".join(file for mine in step for file in mine.files)
        return f"Gradient not finite at iteration {step[0].iteration}: images {files}"
    where = "; ".join(f"process {rank}: {losses}, images {', '.join(step[rank].files)}" for rank, losses in bad.items())
    return f"Losses not finite at iteration {step[0].iteration}: {where}"


def _scalars(steps_of_all: Sequence[Sequence[_Step]]) -> dict[str, float]:
    """Losses, their sum and the waiting time, of what every process did in the same steps."""
    histories: dict[str, list[float]] = {}
    for steps in steps_of_all:
        means = {name: statistics.fmean(step.losses[name] for step in steps) for name in steps[0].losses}
        waited = max(step.data_time for step in steps)
        others = {"data_time": waited, "gradient_norm": steps[0].gradient, "total_loss": sum(means.values())}
        for name, value in {**others, **means}.items():
            histories.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in histories.items()}

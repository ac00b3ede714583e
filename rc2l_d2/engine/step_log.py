"""Statistics of the training steps: kept on the device over a log period, then fetched in one copy."""

from __future__ import annotations

import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..host import comm, get_event_storage
from .advice import Advice
from .telemetry import PseudoLabelTelemetry

logger = logging.getLogger(__name__)

# Iterations between two copies from the device; scalars are also gathered over ranks and written this often.
LOG_PERIOD = 20
_GO_ON = "--resume continues from the last checkpoint, and SOLVER.MAX_BAD_STEPS is the number of such steps to skip"


class NonFiniteError(InputError, FloatingPointError):
    """Too many steps of a run have non-finite losses or gradients; all ranks raise it."""


class _Step(NamedTuple):
    """A step of one rank."""

    iteration: int
    losses: Mapping[str, Any]  # scalar tensors on the device, floats once they are fetched
    gradient: Any
    data_time: float
    files: Sequence[str]


class StepLog:
    """Losses of the steps and counts of the pseudo labels since the last :meth:`write`.

    Nothing waits for the device between two writes, but the write checks every step for non-finite values.

    Attributes:
        telemetry: takes the counts.
        bad_steps: non-finite steps of the run that were skipped.
    """

    def __init__(self, class_names: Sequence[str], bears_infinite_gradients: bool = False, max_bad_steps: int = 0):
        """
        Args:
            class_names: K names.
            bears_infinite_gradients: whether single non-finite gradients are normal (loss scaling); LOG_PERIOD of them
                in a row are not.
            max_bad_steps: other non-finite steps that the run may skip.
        """
        self.telemetry = PseudoLabelTelemetry(class_names)
        self.advice = Advice(class_names)
        self.bears_infinite_gradients = bears_infinite_gradients
        self.max_bad_steps = max_bad_steps
        self.bad_steps = 0
        self._infinite = 0  # gradients in a row, with finite losses
        self._steps: list[_Step] = []

    def add(
        self, iteration: int, losses: Mapping[str, Tensor], gradient: Tensor, data_time: float, files: Sequence[str]
    ) -> None:
        """Add a step: scalar losses, gradient norm, seconds waited for images, and the images' file names."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        self._steps.append(_Step(iteration, detached, gradient.detach(), data_time, files))

    def write(self) -> None:
        """Put scalars into the event storage; all ranks must call it.

        - each loss, ``total_loss`` and ``gradient_norm``: median over the steps of the mean over ranks;
        - ``data_time``: median over the steps of the longest wait of a rank;
        - the fractions of :class:`PseudoLabelTelemetry`.

        Allowed non-finite steps are logged and left out. :class:`Advice` is logged as warnings.

        Raises:
            NonFiniteError: on all ranks, with losses and images, where too many steps are non-finite.
        """
        if not self._steps:
            return
        steps, counts = self._fetch()
        steps_by_rank, counts_by_rank = zip(*comm.all_gather((steps, counts)), strict=True)
        scalars = _scalars(self._finite([*zip(*steps_by_rank, strict=True)]))
        get_event_storage().put_scalars(**scalars)
        totals = {name: sum(of_rank[name] for of_rank in counts_by_rank) for name in counts}
        # Already means over the period, so the writers must not smooth them.
        get_event_storage().put_scalars(**self.telemetry.fractions(totals), smoothing_hint=False)
        for sentence in self.advice.check(steps[-1].iteration, totals, scalars):
            if comm.is_main_process():
                logger.warning(sentence)

    def _fetch(self) -> tuple[list[_Step], dict[str, Tensor]]:
        """Return steps and counts of this rank, copied to the host at once, and start the next period."""
        steps, self._steps = self._steps, []
        counts = self.telemetry.take()
        scalars = [scalar for step in steps for scalar in (*step.losses.values(), step.gradient)]
        # float64 is exact for every count that a run can reach.
        values = torch.cat([value.double().flatten() for value in [*scalars, *counts.values()]]).cpu()
        chunks = values[len(scalars) :].split([count.numel() for count in counts.values()])
        numbers = iter(values[: len(scalars)].tolist())
        fetched = [
            step._replace(losses={name: next(numbers) for name in step.losses}, gradient=next(numbers))
            for step in steps
        ]
        return fetched, {n: chunk.view(c.shape) for (n, c), chunk in zip(counts.items(), chunks, strict=True)}

    def _finite(self, steps: Sequence[Sequence[_Step]]) -> list[Sequence[_Step]]:
        """Return the finite steps; each step is a sequence over ranks."""
        finite = []
        for step in steps:
            losses, gradient = _bad_losses(step), _bad_gradient(step)
            self._infinite = self._infinite + 1 if gradient and not losses else 0
            ignore_gradient = self.bears_infinite_gradients and self._infinite < LOG_PERIOD
            problem = losses or (gradient if not ignore_gradient else "")
            if not problem:
                finite.append(step)
                continue
            self.bad_steps += 1
            # A finite gradient has moved the weights, even where a loss is non-finite.
            if self.bad_steps > self.max_bad_steps or not gradient:
                raise NonFiniteError(f"{problem}; lower SOLVER.BASE_LR, or check these images; {_GO_ON}.")
            logger.warning(
                "%s; step skipped, %d of the %d that SOLVER.MAX_BAD_STEPS allows.",
                problem, self.bad_steps, self.max_bad_steps,
            )  # fmt: skip
        return finite


def _bad_losses(step: Sequence[_Step]) -> str:
    """Return a description of the non-finite losses of all ranks, "" without any."""
    ranks = []
    for rank, own in enumerate(step):
        if bad := {name: loss for name, loss in own.losses.items() if not math.isfinite(loss)}:
            ranks.append(f"rank {rank}: {bad}, images {', '.join(own.files)}")
    return f"Non-finite losses at iteration {step[0].iteration}: {'; '.join(ranks)}" if ranks else ""


def _bad_gradient(step: Sequence[_Step]) -> str:
    """Return a description of a non-finite gradient, or "". Gradients are averaged, so rank 0 has that of all ranks."""
    if math.isfinite(step[0].gradient):
        return ""
    files = ", ".join(file for own in step for file in own.files)
    return f"Non-finite gradient at iteration {step[0].iteration}: images {files}"


def _scalars(steps: Sequence[Sequence[_Step]]) -> dict[str, float]:
    """Return the scalars of :meth:`StepLog.write`; each step is a sequence over ranks."""
    histories = defaultdict(list)
    for step in steps:
        means = {name: statistics.fmean(own.losses[name] for own in step) for name in step[0].losses}
        waited = max(own.data_time for own in step)
        others = {"data_time": waited, "gradient_norm": step[0].gradient, "total_loss": sum(means.values())}
        for name, value in (others | means).items():
            histories[name].append(value)
    return {name: statistics.median(values) for name, values in histories.items()}

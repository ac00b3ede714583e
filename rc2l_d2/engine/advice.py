"""Warnings about training problems that show in the logged statistics, each with advice in one sentence."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from torch import Tensor

# Iterations that a problem must last before the first warning, and between two warnings. Right after burn-in a healthy
# teacher may be confident of the background alone, for 20 iterations on the toy set.
LASTING, REMINDER_PERIOD = 100, 1000
# Pseudo labels are judged over at least this many unlabelled images.
_MIN_IMAGES = 40
# Collapse: a smaller fraction of the mask pixels is confident, or the classes besides the largest have together less
# than this fraction of the area that they have in the labels.
_MIN_CONFIDENT, _MIN_OTHERS = 0.01, 0.01
# A loss is the median over this many log periods; it has risen when it exceeds its minimum by this factor.
_PERIODS, _RISE = 5, 2.0
_SUPERVISED = ("loss_ce", "loss_mask", "loss_dice", "loss_sem_seg")


class Advice:
    """Checks the statistics of each log period for three problems.

    - The teacher is confident of almost nothing.
    - Almost all confident pixels have one class, unlike the labels.
    - The supervised losses have doubled since their minimum: the learning rate is too high for the batch size.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = list(class_names)
        self._counts: dict[str, Tensor] = {}
        self._collapse: str | None = None
        self._losses: deque[float] = deque(maxlen=_PERIODS)
        self._lowest = float("inf")
        self._since: dict[str, int] = {}
        self._warned: dict[str, int] = {}

    def check(self, iteration: int, counts: Mapping[str, Tensor], scalars: Mapping[str, float]) -> list[str]:
        """Add the statistics of a log period, and return the warnings that are due, one sentence each.

        Args:
            iteration: the last of the period.
            counts: sums over the period and all ranks, on the host (:mod:`rc2l_d2.regions.statistics`); empty in
                burn-in.
            scalars: losses by name, medians over the period.
        """
        due = []
        for problem, sentence in (("collapse", self._find_collapse(counts)), ("rise", self._find_rise(scalars))):
            if sentence is None:
                self._since.pop(problem, None)
                continue
            lasted = iteration - self._since.setdefault(problem, iteration)
            if lasted >= LASTING and iteration - self._warned.get(problem, -REMINDER_PERIOD) >= REMINDER_PERIOD:
                self._warned[problem] = iteration
                due.append(sentence)
        return due

    def _find_collapse(self, counts: Mapping[str, Tensor]) -> str | None:
        if "images" in counts:
            names = ("images", "pixels", "confident", "pseudo_area", "label_area")
            self._counts = {name: self._counts.get(name, 0) + counts[name] for name in names}
            if self._counts["images"] >= _MIN_IMAGES:
                self._collapse, self._counts = self._describe_collapse(self._counts), {}
        return self._collapse

    def _describe_collapse(self, counts: Mapping[str, Tensor]) -> str | None:
        confident = (counts["confident"] / counts["pixels"].clamp_min(1)).item()
        if confident < _MIN_CONFIDENT:
            return (
                f"Only {confident:.1%} of the pixels of the unlabelled images have a confident pseudo label, so these "
                "images contribute almost nothing; lower CLASS_THRESHOLD_RATIO and CONFIDENCE_THRESHOLD of MODEL.RC2L "
                "(of MODEL.PIXEL for the pixel-level methods; for UniMatch MODEL.UNIMATCH.CONFIDENCE_THRESHOLD), or "
                "restart with a longer MODEL.SEMI_SUPERVISED.BURN_IN_ITERS."
            )
        pseudo, labels = (
            counts[name].double() / counts[name].sum().clamp_min(1) for name in ("pseudo_area", "label_area")
        )
        largest = int(pseudo.argmax())
        if 1 - pseudo[largest] >= _MIN_OTHERS * (1 - labels[largest]):
            return None
        return (
            f"{pseudo[largest].item():.1%} of the confident pixels of the unlabelled images have the pseudo label "
            f"'{self.class_names[largest]}', but {labels[largest].item():.1%} of the labelled pixels: the teacher has "
            "collapsed to one class; restart with a longer MODEL.SEMI_SUPERVISED.BURN_IN_ITERS and RAMP_UP_ITERS or, "
            "if that does not help, with a smaller MODEL.RC2L.LOSS_WEIGHT or more labels of the other classes."
        )

    def _find_rise(self, scalars: Mapping[str, float]) -> str | None:
        supervised = [scalars[name] for name in _SUPERVISED if name in scalars]
        if supervised:
            self._losses.append(sum(supervised))
        if len(self._losses) < _PERIODS:
            return None
        now = statistics.median(self._losses)
        self._lowest = min(self._lowest, now)
        if now <= _RISE * self._lowest:
            return None
        return (
            f"The losses on labelled images have risen from {self._lowest:.3g} to {now:.3g}: the learning rate seems "
            "too high for SOLVER.IMS_PER_BATCH; restart with a lower SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS."
        )

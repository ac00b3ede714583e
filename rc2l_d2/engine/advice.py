"""Trouble that a run's own numbers show, each told in one sentence with what to do about it."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

# Trouble is told when it has lasted for so many iterations, and again after so many, as long as it lasts. Right after
# burn-in a healthy teacher may be sure of the background alone, for 20 iterations on the toy set.
LASTING, REMINDER_PERIOD = 100, 1000
# Pseudo labels are judged on no fewer unlabelled images than this.
_IMAGES = 40
# Collapsed: of the positions less than this share is confident ...
_CONFIDENT = 0.01
# ... or of the confident ones all but one class have less than this part of the share that they have in the labels.
_OTHERS = 0.01
# Losses are judged by their median over so many periods of the log: a single one is noisy.
_PERIODS, _RISE = 5, 2.0
_SUPERVISED = ("loss_ce", "loss_mask", "loss_dice")


class Advice:
    """Looks at what the log fetches anyway, period by period, and says what looks wrong.

    - The teacher is confident of next to nothing.
    - Nearly all confident positions have one class, which is not what the labels are like.
    - The losses on labelled images, once low, are twice as high: the learning rate is too high for the batch.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        """``class_names``: K names."""
        self.class_names = list(class_names)
        self._counts: dict[str, Tensor] = {}
        self._collapsed: str | None = None
        self._losses: deque[float] = deque(maxlen=_PERIODS)
        self._lowest = float("inf")
        self._since: dict[Callable, int] = {}
        self._told: dict[Callable, int] = {}

    def look(self, iteration: int, counts: Mapping[str, Tensor], scalars: Mapping[str, float]) -> list[str]:
        """Take a period of the log into account.

        Args:
            iteration: the period's last one.
            counts: sums over the period and over all processes, on the host
                (:func:`rc2l_d2.regions.coverage_counts`, :func:`rc2l_d2.regions.label_counts`); empty in burn-in.
            scalars: losses by name, medians over the period.

        Returns:
            a sentence for each warning that is due.
        """
        if "images" in counts:
            names = ("images", "positions", "confident", "pseudo_area", "label_area")
            self._counts = {name: self._counts.get(name, 0) + counts[name] for name in names}
        if all(name in scalars for name in _SUPERVISED):
            self._losses.append(sum(scalars[name] for name in _SUPERVISED))
        due = []
        for finding in (self._collapse, self._rise):
            sentence = finding()
            if sentence is None:
                self._since.pop(finding, None)
                continue
            lasted = iteration - self._since.setdefault(finding, iteration)
            silent = iteration - self._told.get(finding, -REMINDER_PERIOD)
            if lasted >= LASTING and silent >= REMINDER_PERIOD:
                self._told[finding] = iteration
                due.append(sentence)
        return due

    def _collapse(self) -> str | None:
        if self._counts and self._counts["images"] >= _IMAGES:
            counts, self._counts = self._counts, {}
            self._collapsed = self._judge(counts)
        return self._collapsed

    def _judge(self, counts: Mapping[str, Tensor]) -> str | None:
        share = (counts["confident"] / counts["positions"].clamp_min(1)).item()
        if share < _CONFIDENT:
            return (
                f"{share:.1%} of the pixels of the unlabelled images have a confident pseudo label: these images teach "
                "next to nothing. Lower CLASS_THRESHOLD_RATIO and CONFIDENCE_THRESHOLD (of MODEL.RC2L, or of "
                "MODEL.PIXEL for the pixel-level methods), or start again with a longer MODEL.SEMI_SUPERVISED.BURN_IN_ITERS."
            )
        areas = (counts[name].double() for name in ("pseudo_area", "label_area"))
        given, known = (area / area.sum().clamp_min(1) for area in areas)
        largest = int(given.argmax())
        if 1 - given[largest] >= _OTHERS * (1 - known[largest]):
            return None
        return (
            f"{given[largest].item():.1%} of the confident pixels of the unlabelled images have the pseudo label "
            f"'{self.class_names[largest]}', of the labelled pixels {known[largest].item():.1%}: the teacher has "
            "collapsed to one class, and the student follows. Start again with a longer MODEL.SEMI_SUPERVISED.BURN_IN_ITERS and "
            "RAMP_UP_ITERS; if that does not help, with a smaller MODEL.RC2L.LOSS_WEIGHT or more labels of the others."
        )

    def _rise(self) -> str | None:
        if len(self._losses) < _PERIODS:
            return None
        now = statistics.median(self._losses)
        self._lowest = min(self._lowest, now)
        if now <= _RISE * self._lowest:
            return None
        return (
            f"The losses on labelled images have risen from {self._lowest:.3g} to {now:.3g}: the learning rate looks "
            "too high for SOLVER.IMS_PER_BATCH. Start again with a lower SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS."
        )

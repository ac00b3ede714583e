"""What a comparison must reach, and whether it does: teacher, last iteration, mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..reporting.run_metrics import TEACHER, Cell, mean_and_std

Cells = Mapping[tuple[str, str], Cell]
REACHED, MISSED, OPEN = "reached", "missed", "open"

_FORMS = (
    "{better: METHOD, than: METHOD, by: POINTS, draw: DRAW}, {method: METHOD, ratio: PART, of: METHOD, draw: DRAW} "
    "(in both a method may be {method: METHOD, draw: DRAW}) or {kept_classes: {method: METHOD, baseline: METHOD, "
    "learned: IOU, lost: IOU}, draw: DRAW}"
)


@dataclass(frozen=True)
class Verdict:
    """Of one target: what it asks, ``REACHED``, ``MISSED`` or ``OPEN`` (runs are missing), and the figures."""

    target: str
    outcome: str
    figures: str


@dataclass(frozen=True)
class AtLeast:
    """``cell`` has at least ``by`` points of mIoU more than ``ratio`` times that of ``other``."""

    cell: tuple[str, str]
    other: tuple[str, str]
    by: float = 0.0
    ratio: float = 1.0

    def judge(self, cells: Cells) -> Verdict:
        bound = f"{_name(self.other)} + {self.by:g} mIoU"
        if self.ratio != 1:
            bound = f"{100 * self.ratio:g} % of {_name(self.other)}"
        asked = f"{_name(self.cell)} ≥ {bound}"
        if missing := _missing(cells, self.cell, self.other):
            return Verdict(asked, OPEN, missing)
        mine, other = cells[self.cell], cells[self.other]
        mean, other_mean = _mean(mine), _mean(other)
        figures = f"{mean:.2f} against {other_mean:.2f}: {mean - other_mean:+.2f}"
        if other_mean:
            figures += f", {100 * mean / other_mean:.1f} %"
        pairs = [mine.runs[seed].last(TEACHER) - other.runs[seed].last(TEACHER) for seed in mine.runs]
        if len(pairs) > 1:
            per_seed = ", ".join(f"{pair:+.2f}" for pair in pairs)
            figures += f" (seed by seed {per_seed}; standard deviation {mean_and_std(pairs)[1]:.2f})"
        return Verdict(asked, _outcome(mean >= self.ratio * other_mean + self.by), figures)


@dataclass(frozen=True)
class KeptClasses:
    """No class with IoU above ``learned`` in ``baseline`` falls below ``lost`` in ``cell``."""

    cell: tuple[str, str]
    baseline: tuple[str, str]
    learned: float
    lost: float

    def judge(self, cells: Cells) -> Verdict:
        asked = (
            f"{_name(self.cell)} keeps every class that {_name(self.baseline)} learns "
            f"(IoU > {self.learned:g} stays ≥ {self.lost:g})"
        )
        if missing := _missing(cells, self.cell, self.baseline):
            return Verdict(asked, OPEN, missing)
        mine, other = cells[self.cell], cells[self.baseline]
        before, after = other.class_means(TEACHER), mine.class_means(TEACHER)
        lost = [f"{name} {before[name]:.1f} → {after[name]:.1f}" for name in self._lost(before, after)]
        learned = sum(iou > self.learned for iou in before.values())
        figures = f"{len(lost)} of {learned} learned classes lost" + (f": {', '.join(lost)}" if lost else "")
        single = [
            f"{name} (seed {seed})"
            for seed in mine.runs
            for name in self._lost(other.runs[seed].class_ious(TEACHER), mine.runs[seed].class_ious(TEACHER))
        ]
        if len(mine.runs) > 1 and single:
            figures += f"; in single seeds: {', '.join(single)}"
        return Verdict(asked, _outcome(not lost), figures)

    def _lost(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
        return [name for name, iou in before.items() if iou > self.learned and not after[name] >= self.lost]


Target = AtLeast | KeptClasses


def parse_targets(raw: Any, methods_of: Mapping[str, Sequence[str]], file: str) -> tuple[Target, ...]:
    """The key 'targets' of a comparison.

    Args:
        raw: its value.
        methods_of: draw -> the methods that run on it.
        file: its name, for messages.

    Raises:
        InputError: a target has none of the known forms, or names a method or draw that does not run.
    """
    if not isinstance(raw, list):
        raise InputError(f"{file}: the key 'targets' must be a list.")
    return tuple(target for index, item in enumerate(raw) for target in _parse(item, index, methods_of, file))


def _parse(item: Any, index: int, methods_of: Mapping[str, Sequence[str]], file: str) -> list[Target]:
    where = f"{file}: the key 'targets', item {index + 1},"

    def cell(method: Any, draw: Any) -> tuple[str, str]:
        if isinstance(method, dict) and method.keys() == {"method", "draw"}:
            method, draw = method["method"], method["draw"]
        if not isinstance(draw, str) or draw not in methods_of:
            raise InputError(f"{where} names the draw '{draw}'; known are {', '.join(methods_of)}.")
        if method not in methods_of[draw]:
            known = ", ".join(methods_of[draw])
            raise InputError(f"{where} names the method '{method}', which does not run on {draw}; {known} do.")
        return method, draw

    keys = item.keys() - {"draw"} if isinstance(item, dict) else set()
    draw = item.get("draw") if keys else None
    if keys == {"better", "than", "by"} and _is_number(item["by"]):
        return [AtLeast(cell(item["better"], draw), cell(item["than"], draw), by=float(item["by"]))]
    if keys == {"method", "ratio", "of"} and _is_number(item["ratio"]):
        return [AtLeast(cell(item["method"], draw), cell(item["of"], draw), ratio=float(item["ratio"]))]
    kept = item.get("kept_classes") if keys == {"kept_classes"} else None
    if isinstance(kept, dict) and kept.keys() == {"method", "baseline", "learned", "lost"}:
        mine, other, learned, lost = (kept[key] for key in ("method", "baseline", "learned", "lost"))
        if _is_number(learned) and _is_number(lost):
            draws = [draw] if draw else [name for name, methods in methods_of.items() if mine in methods]
            draws = [name for name in draws if draw or other in methods_of[name]]
            if not draws:
                raise InputError(f"{where} names the methods '{mine}' and '{other}', which run together on no draw.")
            return [KeptClasses(cell(mine, name), cell(other, name), float(learned), float(lost)) for name in draws]
    raise InputError(f"{where} is not a target; write {_FORMS}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _name(cell: tuple[str, str]) -> str:
    return f"{cell[0]} [{cell[1]}]"


def _mean(cell: Cell) -> float:
    return mean_and_std(run.last(TEACHER) for run in cell.runs.values())[0]


def _missing(cells: Cells, *names: tuple[str, str]) -> str:
    short = [f"{_name(name)} has {len(cells[name].runs)} of {cells[name].planned} runs" for name in dict.fromkeys(names)
             if len(cells[name].runs) < cells[name].planned]  # fmt: skip
    return "; ".join(short)


def _outcome(reached: bool) -> str:
    return REACHED if reached else MISSED

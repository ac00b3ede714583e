"""Scalars and images logged during training, and the writers for metrics.json and TensorBoard."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cached_property
from typing import TextIO

import torch
from fvcore.common.history_buffer import HistoryBuffer

# Noisy scalars are logged as their median over this many iterations.
WINDOW_SIZE = 20
# Number of values kept per scalar; the remaining time is estimated from them.
HISTORY_LENGTH = 1000

_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the storage of the innermost ``with EventStorage(...)``; AssertionError outside of any."""
    assert _storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' block."
    return _storages[-1]


class EventStorage:
    """Scalars with their history, and images not yet written; new entries get the iteration ``iter``."""

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self.images: list[tuple[str, torch.Tensor, int]] = []
        self._history: dict[str, HistoryBuffer] = {}
        self._smoothing_hints: dict[str, bool] = {}

    def __enter__(self) -> EventStorage:
        _storages.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        _storages.pop()

    def put_scalar(self, name: str, value, smoothing_hint: bool = True) -> None:
        """Add a number at the current iteration. ``smoothing_hint``: it is noisy, and writers log its median."""
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint before."
        self._history.setdefault(name, HistoryBuffer(HISTORY_LENGTH)).update(float(value), self.iter)

    def put_scalars(self, *, smoothing_hint: bool = True, **kwargs) -> None:
        """Add several numbers, ``name=value``; see :meth:`put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint)

    def put_image(self, img_name: str, img_tensor: torch.Tensor) -> None:
        """Add an RGB image (3, H, W), uint8 in [0, 255] or float in [0, 1], for TensorBoard."""
        self.images.append((img_name, img_tensor, self.iter))

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return the history of every scalar."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value and its iteration for every scalar."""
        return {name: history.values()[-1] for name, history in self._history.items()}

    def latest_with_smoothing_hint(self) -> dict[str, tuple[float, int]]:
        """Return :meth:`latest`, with the median over the last ``WINDOW_SIZE`` iterations for noisy scalars."""
        return {
            name: (self._median(name) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self.latest().items()
        }

    def _median(self, name: str) -> float:
        history = self._history[name]
        iterations = [iteration for _, iteration in history.values()[-WINDOW_SIZE:]]
        return float(history.median(sum(iteration > iterations[-1] - WINDOW_SIZE for iteration in iterations)))


class _EventWriter:
    _last_write = -1

    def _new_scalars(self) -> list[tuple[str, float, int]]:
        """Return (name, value, iteration) of the scalars put since the last call."""
        latest = get_event_storage().latest_with_smoothing_hint()
        new = [(name, value, iteration) for name, (value, iteration) in latest.items() if iteration > self._last_write]
        self._last_write = max((iteration for _, _, iteration in new), default=self._last_write)
        return new


class JSONWriter(_EventWriter):
    """Append scalars to a file, created at the first write: a JSON object for each iteration, with ``iteration``."""

    def __init__(self, json_file: str):
        self._path = json_file

    @cached_property
    def _file(self) -> TextIO:
        return open(self._path, "a", encoding="utf-8")

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in self._new_scalars():
            lines[iteration][name] = value
        for iteration, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        if lines:
            self._file.flush()

    def close(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()


class TensorboardXWriter(_EventWriter):
    """Write scalars and images to a TensorBoard event file in ``log_dir``, created at the first write."""

    def __init__(self, log_dir: str):
        self._log_dir = log_dir

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(self._log_dir)

    def write(self) -> None:
        for name, value, iteration in self._new_scalars():
            self._writer.add_scalar(name, value, iteration)
        images = get_event_storage().images
        for name, image, iteration in images:
            self._writer.add_image(name, image, iteration)
        images.clear()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()

"""Where numbers logged during training are kept, and the writers that bring them to terminal, JSON and TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections import defaultdict
from functools import cached_property

import torch
from fvcore.common.history_buffer import HistoryBuffer

_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost ``with EventStorage(...)``; AssertionError outside of any."""
    assert _storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' block."
    return _storages[-1]


class EventStorage:
    """Scalars with their history, and images waiting for a writer, each with the iteration it belongs to.

    ``iter`` is the iteration that new entries belong to: the trainer sets it, or :meth:`step` advances it.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothing_hints: dict[str, bool] = {}
        self._images: list[tuple[str, torch.Tensor, int]] = []

    def __enter__(self) -> EventStorage:
        _storages.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        assert _storages[-1] is self, "EventStorage blocks must be left in the reverse order of entering."
        _storages.pop()

    def step(self) -> None:
        self.iter += 1

    def put_scalar(self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add one number, of iteration ``cur_iter`` if not the current one. ``smoothing_hint``: it is noisy, so that
        writers show a median; AssertionError if ``name`` had another hint before."""
        cur_iter = self.iter if cur_iter is None else cur_iter
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint before."
        self._history.setdefault(name, HistoryBuffer()).update(float(value), cur_iter)
        self._latest[name] = (float(value), cur_iter)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs) -> None:
        """Add several numbers, ``name=value``; see :meth:`put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor) -> None:
        """Add an RGB image (3, H, W), uint8 in [0, 255] or float in [0, 1], for TensorBoard."""
        self._images.append((img_name, img_tensor, self.iter))

    def pop_images(self) -> list[tuple[str, torch.Tensor, int]]:
        """The images put since the last call, as (name, image, iteration)."""
        images, self._images = self._images, []
        return images

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar; KeyError if it was never put."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """The history of every scalar."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Last value and its iteration, for every scalar."""
        return self._latest

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of ``name`` fall in the ``window_size`` iterations that end with its last one."""
        values = self._history[name].values()
        first = values[-1][1] - window_size
        count = 0
        for _, iteration in reversed(values):
            if iteration <= first:
                break
            count += 1
        return count

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As :meth:`latest`, but the median over ``window_size`` iterations for scalars that are noisy."""
        shown = dict(self._latest)
        for name, (_, iteration) in self._latest.items():
            if self._smoothing_hints[name]:
                median = self._history[name].median(self.count_samples(name, window_size))
                shown[name] = (float(median), iteration)
        return shown


class EventWriter:
    """Brings what :func:`get_event_storage` holds to somewhere. Noisy scalars are shown as their median over
    ``window_size`` iterations."""

    _window_size = 20
    _last_write = -1

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None: ...

    def _new_scalars(self) -> list[tuple[str, float, int]]:
        """(name, value, iteration) of the scalars put since the last call."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = [(name, value, iteration) for name, (value, iteration) in latest.items() if iteration > self._last_write]
        self._last_write = max((iteration for _, _, iteration in new), default=self._last_write)
        return new


class JSONWriter(EventWriter):
    """Appends scalars to a file, one JSON object a line: those of one iteration, with the key ``iteration``."""

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = open(json_file, "a", encoding="utf-8")
        self._window_size = window_size

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in self._new_scalars():
            lines[iteration][name] = value
        for iteration, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and images to a TensorBoard event file in ``log_dir``, created at the first write; ``kwargs`` go
    to ``torch.utils.tensorboard.SummaryWriter``."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        for name, value, iteration in self._new_scalars():
            self._writer.add_scalar(name, value, iteration)
        for name, image, iteration in get_event_storage().pop_images():
            self._writer.add_image(name, image, iteration)

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left (if ``max_iter``, where training stops, is given), iteration, every scalar with "loss"
    in its name, times, learning rate, GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None or "time" not in storage.histories():
            return None
        seconds = storage.history("time").median(1000) * (self._max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        storage = get_event_storage()
        if self._max_iter is not None and storage.iter >= self._max_iter:  # no progress left to report
            return
        histories = storage.histories()
        eta = self._eta(storage)
        parts = [f"eta: {eta}"] if eta else []
        parts.append(f"iter: {storage.iter}")
        for name, history in histories.items():
            if "loss" in name:
                parts.append(f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}")
        if "time" in histories:
            parts.append(f"time: {histories['time'].global_avg():.4f}  last_time: {histories['time'].latest():.4f}")
        if "data_time" in histories:
            history = histories["data_time"]
            average = history.avg(storage.count_samples("data_time", self._window_size))
            parts.append(f"data_time: {average:.4f}  last_data_time: {history.latest():.4f}")
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))

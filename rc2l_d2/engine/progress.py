"""What somebody sees of a run while it goes: one line, alive on a terminal and written now and then elsewhere."""

from __future__ import annotations

import datetime
import logging
import re
import sys
from collections.abc import Mapping

import torch
from tqdm import tqdm

from ..host import HookBase, get_event_storage
from .step_log import LOG_PERIOD

# Of the line's messages alone.
PROGRESS_LOGGER = __name__
logger = logging.getLogger(PROGRESS_LOGGER)

# Loggers whose handlers may write to the terminal that shows the bar.
_LOGGERS = ("rc2l_d2", "detectron2", "fvcore")


class ProgressLine(HookBase):
    """One line with iteration, time left, losses, mIoU so far, share of confident pixels, images a second and memory.

    Where standard output and standard error are terminals it is a bar that renews itself, messages of the log appear
    above it, and the line goes to the log file alone; elsewhere it is a message of the log like others. It is made of
    what :class:`StepLog` has put into the storage of events: nothing is fetched from the device for it. What it works
    out itself goes there too, as ``eta_seconds``, ``images_per_second`` and ``max_mem``.

    Stands behind the evaluation and before the writers; on the main process alone.
    """

    def __init__(self, labeled: int, unlabeled: int, burn_in: int):
        """
        Args:
            labeled: labelled images a step, over all processes.
            unlabeled: unlabelled ones, which take part from iteration ``burn_in`` on.
        """
        self._labeled, self._unlabeled, self._burn_in = labeled, unlabeled, burn_in
        self._bar = tqdm(disable=True)
        self._beside: list[logging.Handler] = []

    def before_train(self) -> None:
        watched = sys.stdout.isatty() and sys.stderr.isatty()
        self._bar = tqdm(
            initial=self.trainer.iter, total=self.trainer.max_iter, disable=not watched, dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}",
        )  # fmt: skip
        handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers] if watched else []
        self._beside = [handler for handler in handlers if _is_terminal(handler)]
        for handler in self._beside:
            handler.addFilter(self._make_way)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % LOG_PERIOD == 0 or done == self.trainer.max_iter:
            storage = get_event_storage()
            storage.put_scalars(**self._measured(storage.histories()), smoothing_hint=False)
            known = latest_scalars()
            self._bar.set_postfix_str(short_line(known), refresh=False)
            logger.info(log_line(self.trainer.iter, known))
        self._bar.update()

    def after_train(self) -> None:
        for handler in self._beside:
            handler.removeFilter(self._make_way)
        self._bar.set_postfix_str(short_line(latest_scalars()))  # with the last evaluation
        self._bar.close()

    def _make_way(self, record: logging.LogRecord) -> bool:
        """A filter: lets through what the bar does not say, on a line without the bar; its next step draws it again."""
        if record.name == PROGRESS_LOGGER:
            return False
        self._bar.clear()
        return True

    def _measured(self, histories: Mapping) -> dict[str, float]:
        measured = {}
        if memory := peak_memory():
            measured["max_mem"] = memory
        if "time" in histories:  # Not that of the first steps.
            time = histories["time"]
            images = self._labeled + (self._unlabeled if self.trainer.iter >= self._burn_in else 0)
            measured["images_per_second"] = images / max(time.avg(LOG_PERIOD), 1e-9)
            measured["eta_seconds"] = time.median(1000) * (self.trainer.max_iter - self.trainer.iter - 1)
        return measured


def latest_scalars() -> dict[str, float]:
    """The scalars of the run by name, those of noisy ones that metrics.json has."""
    return {name: value for name, (value, _) in get_event_storage().latest_with_smoothing_hint().items()}


def log_line(iteration: int, known: Mapping[str, float]) -> str:
    """The line in a log: in Detectron2's form, and of the losses those of the last decoder layer.

    Args:
        iteration: the one that was just done, counted from 0.
        known: :func:`latest_scalars`; what is not there is left out.
    """
    parts = [
        _text("eta: {}", _time_left(known)),
        f"iter: {iteration}",
        *(f"{name}: {known[name]:.4g}" for name in _losses(known)),
        _text("mIoU: {}", _miou(known)),
        _text("confident: {:.0%}", known.get("pseudo/confident_share")),
        _text("images/s: {:.3g}", known.get("images_per_second")),
        *(_text(name + ": {:.4f}", known.get(name)) for name in ("time", "data_time")),
        _text("lr: {:.5g}", known.get("lr")),
        _text("max_mem: {:.0f}M", known.get("max_mem")),
    ]
    return "  ".join(filter(None, parts))


def short_line(known: Mapping[str, float]) -> str:
    """The line behind the bar, the most important first: a terminal cuts it off where it ends."""
    parts = [
        _text("{} left", _time_left(known)),
        _text("loss {:.3g}", known.get("total_loss")),
        _text("mIoU {}", _miou(known)),
        _text("{:.0%} confident", known.get("pseudo/confident_share")),
        _text("{:.3g} images/s", known.get("images_per_second")),
        _text("{:.0f} MB", known.get("max_mem")),
        *(f"{name} {known[name]:.3g}" for name in _losses(known) if name != "total_loss"),
    ]
    return ", ".join(filter(None, parts))


def peak_memory() -> float | None:
    """MB (2^20 bytes) that the process has held at most: of torch's on a GPU, without one all that is resident.

    Data workers are processes of their own. None where the system does not tell.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, elsewhere kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _text(form: str, value: float | str | None) -> str:
    return form.format(value) if value not in (None, "") else ""


def _time_left(known: Mapping[str, float]) -> str:
    return str(datetime.timedelta(seconds=int(known["eta_seconds"]))) if "eta_seconds" in known else ""


def _losses(known: Mapping[str, float]) -> list[str]:
    """Names of the sum and of the losses that are not those of an earlier decoder layer (``loss_ce_0``)."""
    return [name for name in known if name == "total_loss" or re.fullmatch(r"loss(_[a-z]+)+", name)]


def _miou(known: Mapping[str, float]) -> str:
    """Student's and teacher's of the last evaluation; with several data sets, of each."""
    pairs = [
        f"{value:.1f} (teacher {known[teacher]:.1f})"
        for name, value in known.items()
        if name.endswith("sem_seg/mIoU") and (teacher := name.replace("sem_seg/", "sem_seg_teacher/")) in known
    ]
    return ", ".join(pairs)


def _is_terminal(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream is not None and stream.isatty()

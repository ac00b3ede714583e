"""Console progress: a progress bar in a terminal, a log line every 20 iterations elsewhere."""

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

PROGRESS_LOGGER = __name__  # logs nothing but progress lines
logger = logging.getLogger(PROGRESS_LOGGER)

# Loggers whose handlers may write to the terminal.
_LOGGERS = ("rc2l_d2", "detectron2", "fvcore")
# Names of scalars and their format, the most important first: a terminal cuts off the end of the line. The losses of
# earlier decoder layers (loss_ce_0) are not shown.
_SHOWN = {
    r"total_loss": "{}: {:.4g}",
    r".*/mIoU": "{}: {:.1f}",
    r"pseudo/confident_share": "{}: {:.0%}",
    r"images_per_second": "{}: {:.3g}",
    r"max_mem": "{}: {:.0f}M",
    r"loss(_[a-z]+)+": "{}: {:.4g}",
    r"time|data_time": "{}: {:.4f}",
    r"lr": "{}: {:.5g}",
}


class ProgressLine(HookBase):
    """Shows the scalars of the event storage; adds ``eta_seconds``, ``images_per_second`` and ``max_mem`` to it.

    In a terminal, log messages appear above the bar, and progress lines go to the log file only. Register the hook
    after the evaluation and before the writers, on rank 0.
    """

    def __init__(self, labeled: int, unlabeled: int, burn_in: int):
        """``labeled`` images per step, over all ranks, and ``unlabeled`` ones from iteration ``burn_in`` on."""
        self._labeled, self._unlabeled, self._burn_in = labeled, unlabeled, burn_in

    def before_train(self) -> None:
        in_terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self._bar = tqdm(
            initial=self.trainer.iter, total=self.trainer.max_iter, disable=not in_terminal, dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}",
        )  # fmt: skip
        handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
        streams = [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
        self._console = [handler for handler in streams if in_terminal and handler.stream.isatty()]
        for handler in self._console:
            handler.addFilter(self._clear_bar)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % LOG_PERIOD == 0 or done == self.trainer.max_iter:
            get_event_storage().put_scalars(**self._measure(), smoothing_hint=False)
            scalars = _latest_scalars()
            self._bar.set_postfix_str(progress_text(scalars), refresh=False)
            logger.info(progress_text(scalars, self.trainer.iter))
        self._bar.update()

    def after_train(self) -> None:
        for handler in self._console:
            handler.removeFilter(self._clear_bar)
        self._bar.set_postfix_str(progress_text(_latest_scalars()))  # with the last evaluation
        self._bar.close()

    def _clear_bar(self, record: logging.LogRecord) -> bool:
        """Logging filter: drop progress lines; clear the bar for other messages (the next step draws it again)."""
        if record.name == PROGRESS_LOGGER:
            return False
        self._bar.clear()
        return True

    def _measure(self) -> dict[str, float]:
        scalars, histories = {}, get_event_storage().histories()
        if memory := peak_memory():
            scalars["max_mem"] = memory
        if "time" in histories:  # The host does not time the first steps.
            time = histories["time"]
            images = self._labeled + (self._unlabeled if self.trainer.iter >= self._burn_in else 0)
            scalars["images_per_second"] = images / max(time.avg(LOG_PERIOD), 1e-9)
            scalars["eta_seconds"] = time.median(1000) * (self.trainer.max_iter - self.trainer.iter - 1)
        return scalars


def progress_text(scalars: Mapping[str, float], iteration: int | None = None) -> str:
    """Return time left, ``iteration`` and the other known scalars as one line."""
    shown = []
    if "eta_seconds" in scalars:
        shown.append(f"eta: {datetime.timedelta(seconds=int(scalars['eta_seconds']))}")
    if iteration is not None:
        shown.append(f"iter: {iteration}")
    for pattern, form in _SHOWN.items():
        shown += [form.format(name, value) for name, value in scalars.items() if re.fullmatch(pattern, name)]
    return "  ".join(shown)


def peak_memory() -> float | None:
    """Return the peak memory in MB (2^20 bytes): allocated by torch on a GPU, else resident; None if it is unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _latest_scalars() -> dict[str, float]:
    """Return the latest scalars, smoothed as in metrics.json."""
    return {name: value for name, (value, _) in get_event_storage().latest_with_smoothing_hint().items()}

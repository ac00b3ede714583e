"""Logging to the terminal of rank 0, and to one file per rank."""

from __future__ import annotations

import logging
import os
import sys

_FORMATTER = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")


class _TerminalHandler(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, which may be redirected later."""

    def __init__(self):
        logging.Handler.__init__(self)
        self.setFormatter(_FORMATTER)

    @property
    def stream(self):
        return sys.stdout


def setup_logger(output: str | None = None, distributed_rank: int = 0, *, name: str = "rc2l_d2") -> logging.Logger:
    """Add the missing handlers to the logger ``name``.

    Args:
        output: folder of the log file ``log.txt`` (``log.txt.rankN`` for ranks other than 0); None: no file.
        distributed_rank: number of this rank; only rank 0 writes to the terminal.
        name: root name of the logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if distributed_rank == 0 and not any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
        logger.addHandler(_TerminalHandler())
    if output is not None:
        file_name = f"log.txt.rank{distributed_rank}" if distributed_rank > 0 else "log.txt"
        path = os.path.abspath(os.path.join(output, file_name))
        if not any(getattr(handler, "baseFilename", "") == path for handler in logger.handlers):
            os.makedirs(output, exist_ok=True)
            file = logging.FileHandler(path, encoding="utf-8")
            file.setFormatter(_FORMATTER)
            logger.addHandler(file)
    return logger

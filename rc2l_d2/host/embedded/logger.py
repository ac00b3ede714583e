"""One way to set up a logger: coloured on the terminal of rank 0, plain in a file of every rank."""

from __future__ import annotations

import logging
import os
import sys

from termcolor import colored


class _TerminalHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is at the time, so that redirecting it later works."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stdout


class _ColorfulFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return f"{colored(record.levelname, 'red')} {text}" if record.levelno >= logging.WARNING else text


def setup_logger(output: str | None = None, distributed_rank: int = 0, *, name: str = "rc2l_d2") -> logging.Logger:
    """Give the logger ``name`` its handlers; calling it again adds only those that are missing.

    Args:
        output: a folder, in which ``log.txt`` (``log.txt.rankN`` on ranks other than 0) is appended to; None: no file.
        distributed_rank: rank of this process; only rank 0 writes to the terminal.
        name: root name of the logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    present = {handler.get_name() for handler in logger.handlers}

    def add(handler: logging.Handler, title: str, formatter: logging.Formatter) -> None:
        handler.set_name(title)
        handler.setFormatter(formatter)
        logger.addHandler(handler)

    if distributed_rank == 0 and f"{name}:terminal" not in present:
        head = colored("[%(asctime)s %(name)s]: ", "green")
        add(_TerminalHandler(), f"{name}:terminal", _ColorfulFormatter(head + "%(message)s", "%m/%d %H:%M:%S"))
    if output is not None:
        file_name = f"log.txt.rank{distributed_rank}" if distributed_rank > 0 else "log.txt"
        path = os.path.abspath(os.path.join(output, file_name))
        if f"{name}:{path}" not in present:
            os.makedirs(output, exist_ok=True)
            plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
            add(logging.FileHandler(path, encoding="utf-8"), f"{name}:{path}", plain)
    return logger

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
    def __init__(self, name: str, abbrev_name: str):
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt="%m/%d %H:%M:%S")
        self._root = name + "."
        self._short = abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        full_name = record.name
        if full_name.startswith(self._root):
            record.name = self._short + full_name[len(self._root) :]
        try:
            text = super().formatMessage(record)
        finally:
            record.name = full_name  # other handlers see the same record
        if record.levelno >= logging.ERROR:
            return colored("ERROR", "red", attrs=["underline"]) + " " + text
        if record.levelno >= logging.WARNING:
            return colored("WARNING", "red") + " " + text
        return text


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "rc2l_d2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Give the logger ``name`` its handlers; calling it again adds only those that are missing.

    Args:
        output: a file (``.txt`` or ``.log``) or a folder, in which ``log.txt`` is appended to; no file if None.
            Ranks other than 0 add ``.rankN`` to the name.
        distributed_rank: rank of this process; only rank 0 writes to the terminal.
        color: colours on the terminal.
        name: root name of the logger.
        abbrev_name: what the terminal shows instead of ``name``; "" shows nothing.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    present = {handler.get_name() for handler in logger.handlers}

    if distributed_rank == 0 and f"{name}:terminal" not in present:
        terminal = _TerminalHandler()
        terminal.set_name(f"{name}:terminal")
        colorful = _ColorfulFormatter(name, name if abbrev_name is None else abbrev_name)
        terminal.setFormatter(colorful if color else plain)
        logger.addHandler(terminal)

    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path = os.path.abspath(path) + (f".rank{distributed_rank}" if distributed_rank > 0 else "")
        if f"{name}:{path}" not in present:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = logging.FileHandler(path, mode="a", encoding="utf-8")
            file.set_name(f"{name}:{path}")
            file.setFormatter(plain)
            logger.addHandler(file)
    return logger

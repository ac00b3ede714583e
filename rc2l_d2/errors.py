"""Errors that the user can correct, and recognition of out-of-memory errors."""

from collections.abc import Sequence

import torch


class InputError(ValueError):
    """A file, key or option cannot be used.

    The message is one sentence: file or key, what is wrong, what to do. Commands print it without a traceback and exit
    with status 2.
    """


def first_few(items: Sequence[object], most: int = 10) -> str:
    """Return the first ``most`` items for a message: ``a, b, ...``."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the first ``limit`` characters of the message in one line, or without a message the error's class."""
    return _shortened(" ".join(_message(error).split()), error, limit)


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first ``limit`` characters of the message's first line, or without a message the error's class."""
    return _shortened(_message(error).strip().split("\n")[0].strip(), error, limit)


def _message(error: BaseException) -> str:
    # str() quotes the message of a KeyError; the first argument of a YAML error is often None.
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _shortened(text: str, error: BaseException, limit: int) -> str:
    return text[:limit].rstrip(".") or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is a lack of CPU or GPU memory."""
    # Torch has no error class for CPU memory.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)

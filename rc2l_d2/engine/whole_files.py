"""Atomic writes, and a check for damaged torch files."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import torch

from ..errors import InputError, first_line


def write_checkpoint(data: dict[str, Any], path: str) -> None:
    """Write a torch file atomically; :func:`write_text` lists the errors."""
    # All checkpoints share one temporary name, so killed runs leave one file behind, which the next write replaces.
    _write_whole(path, os.path.join(os.path.dirname(path), "checkpoint.tmp"), lambda file: torch.save(data, file))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically.

    Raises:
        InputError: the file cannot be written.
    """
    _write_whole(os.fspath(path), f"{path}.tmp", lambda file: file.write(text.encode()))


def _write_whole(path: str, temporary: str, write: Callable[[IO[bytes]], object]) -> None:
    """Write and sync a ``temporary`` file in the same folder, then rename it; a failure leaves ``path`` as it was."""
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):  # Sync the renaming too, on systems that can open folders.
            folder = os.open(os.path.dirname(path) or ".", os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, RuntimeError) as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        # Torch's writer turns the OSError of a full disk into a RuntimeError.
        if not isinstance(error, OSError) and "inline_container" not in str(error):
            raise
        raise InputError(
            f"{path} could not be written ({first_line(error)}); free some disk space and start again, a training with "
            "--resume; earlier files are intact."
        ) from error


def is_whole(path: str) -> bool:
    """Return whether a torch file has its full length and all of its checksums match."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return False

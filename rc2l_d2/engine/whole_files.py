"""Files that are written whole or not at all, and a look at whether one is."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import torch

from ..errors import InputError


def write_checkpoint(data: dict[str, Any], path: str) -> None:
    """Write a torch file, see :func:`write_whole`."""
    # One name for all, so that what killed runs leave behind is one file, which the next checkpoint writes over.
    temporary = os.path.join(os.path.dirname(path), "checkpoint.tmp")
    write_whole(path, temporary, lambda file: torch.save(data, file))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, see :func:`write_whole`."""
    write_whole(os.fspath(path), f"{path}.tmp", lambda file: file.write(text.encode()))


def write_whole(path: str, temporary: str, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file under a ``temporary`` name in the same folder, and rename it when all is on the disk.

    Raises:
        InputError: it cannot be written, as where the disk is full; what stood at ``path`` before still does.
    """
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    except (OSError, RuntimeError) as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        # What Python says of a full disk is an OSError, and torch's writer makes a RuntimeError of it.
        if not isinstance(error, OSError) and "inline_container" not in str(error):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"{path} could not be written ({reason}); make room and go on with --resume: what was written before is "
            "whole."
        ) from error


def is_whole(path: str) -> bool:
    """Whether a torch file has its full length and each part of it the checksum that it was written with."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return False


def _sync_folder(folder: str) -> None:
    """Bring a renaming to the disk, where the system can open folders."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

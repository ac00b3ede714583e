"""Search folders for images."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence

from ...errors import InputError

# Folders of file systems, which their users cannot read.
_SYSTEM = ("lost+found", "System Volume Information", "$RECYCLE.BIN")


def images_below(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Sorted paths of the images in a folder and its subfolders; links are followed, each real folder only once.

    Raises:
        InputError: a subfolder cannot be read.
    """
    endings, seen = tuple(suffix.lower() for suffix in suffixes), set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not _is_hidden(name)) if real not in seen else []
        if real not in seen:
            images = (name for name in sorted(names) if not name.startswith(".") and name.lower().endswith(endings))
            yield from (os.path.join(parent, name) for name in images)
        seen.add(real)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # A search where nothing is finds nothing.
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror}); change that.") from error


def fits(path: list[str], pattern: list[str]) -> bool:
    """Whether a glob pattern matches a path; ``**`` matches any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(fits(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and fits(path[1:], pattern[1:])


def with_suffix(folder: str, name: str, suffixes: tuple[str, ...], where: str, labels_beside: bool) -> str:
    """The name of a list with the suffix of its file; with the first suffix if there is none.

    Among ``labels_beside`` it is the first file, as the others may be labels.
    """
    names = [name + suffix for suffix in suffixes]
    found = [name for name in names if os.path.isfile(folder + name)]
    # Where letters' case does not count, two names may be one file.
    if len(found) > 1 and not labels_beside and not os.path.samefile(folder + found[0], folder + found[1]):
        raise InputError(
            f"{where}: the list names '{name}', but {folder} has {found[0]} and {found[1]}; give image_suffix the "
            f"ending of the images alone, or write the names with their endings into the list."
        )
    return (found or names)[0]

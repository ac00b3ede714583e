"""The input files of a command line, and the names of their outputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..data.datasets.image_lists import IMAGE_SUFFIXES
from ..data.datasets.image_search import images_below
from ..errors import InputError

RESULTS = ("labels", "confidence", "comparison")  # folders below --output for everything but the overlays
# Endings that data sets do not have by default, but the files of a folder may.
_MORE_SUFFIXES = (".jfif", ".jpe", ".gif", ".jp2", ".ppm", ".pgm", ".avif", ".heic", ".heif")
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}


def is_video(file: Path) -> bool:
    """Return whether the name is a video's; all other files count as images."""
    return file.suffix.lower() in VIDEO_SUFFIXES


class Input(NamedTuple):
    """An image or video, and the path of its results below the output folders, without suffix."""

    file: Path
    name: str

    @property
    def overlay(self) -> str:
        """Path of the overlay below the output folder."""
        return f"{self.name}.mp4" if is_video(self.file) else f"{self.name}.png"


def find_inputs(inputs: Sequence[str], output: Path, truth: Path | None = None) -> list[Input]:
    """Return the images and videos of the inputs (files, folders and globs), in order, each once.

    Folders are walked; results keep the tree below a folder, or below the part of a glob without wildcards.

    Raises:
        InputError: an input matches no file, two files have a result of one path, or an input or the folder of labels
            ``truth`` lies where results are written: directly in ``output``, or in a folder of RESULTS.
    """
    found: dict[str, Input] = {}
    known: set[Path] = set()
    for given in inputs:
        for one in _files(given, output):
            if one.file in known:
                continue
            known.add(one.file)
            first = found.setdefault(one.overlay, one)
            if first != one:
                raise InputError(
                    f"{first.file} and {one.file} would both be written to {one.overlay}; give one at a time."
                )
    _refuse_one_path(found)
    folders = {f"--input {one.file}": one.file.parent for one in found.values()}
    if truth is not None:
        folders[f"--compare {truth}"] = truth
    results = {(output / name).resolve() for name in RESULTS}
    for given, folder in folders.items():
        folder = folder.resolve()
        if folder == output.resolve() or results & {folder, *folder.parents}:
            raise InputError(f"{given} lies where results would be written; give another --output.")
    return list(found.values())


def _refuse_one_path(found: Mapping[str, Input]) -> None:
    """Refuse inputs, by their overlay, of which one would be written over another's labels or other results."""
    owners = {one.name: one for one in found.values()}
    for one in found.values():
        folder, _, rest = one.overlay.partition("/")
        parents = [str(parent) for parent in Path(one.name).parents]
        other = next((owners[name] for name in parents if name in owners and is_video(owners[name].file)), None)
        if folder in RESULTS:
            other = found.get(rest) or owners.get(os.path.dirname(rest))
        if other is not None:
            raise InputError(
                f"The results of {one.file} and {other.file} would have one path; give one at a time, each with its "
                f"own --output."
            )


def _files(given: str, output: Path) -> list[Input]:
    path = Path(given)
    if path.is_dir():
        root, paths = path, map(Path, images_below(given, (*IMAGE_SUFFIXES, *_MORE_SUFFIXES, *VIDEO_SUFFIXES)))
        # Results of an earlier call are no inputs of a folder around them.
        if output.resolve() not in (path.resolve(), *path.resolve().parents):
            paths = (file for file in paths if output.resolve() not in file.resolve().parents)
    elif path.is_file():  # A file's name may hold characters of a pattern.
        root, paths = path.parent, iter([path])
    else:
        root, paths = _fixed_part(path), map(Path, sorted(glob.glob(given, recursive=True)))
    files = [Input(file, str(file.relative_to(root).with_suffix(""))) for file in paths if file.is_file()]
    if not files:
        raise InputError(f"--input {given} is no image or video, and no folder or pattern of any; correct it.")
    return files


def _fixed_part(pattern: Path) -> Path:
    """Return the folders of a glob before its first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))

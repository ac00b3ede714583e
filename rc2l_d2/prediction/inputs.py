"""The input files of a command line, and the names of their outputs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..data.datasets.image_lists import IMAGE_SUFFIXES
from ..errors import InputError

RESULTS = ("labels", "confidence", "comparison")  # folders below --output for everything but the overlays
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}


def is_video(file: Path) -> bool:
    """Return whether the name is a video's; all other files count as images."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def output_name(file: Path) -> str:
    """Return the name of the overlay of an image or video."""
    return f"{file.stem}.mp4" if is_video(file) else f"{file.stem}.png"


def find_inputs(inputs: Sequence[str], output: Path, truth: Path | None = None) -> list[Path]:
    """Return the images and videos of the inputs (files, folders and globs), in order, each once.

    Raises:
        InputError: an input matches no file, two files have one result, or an input or the folder of labels ``truth``
            lies where results are written: directly in ``output``, or in a folder of RESULTS.
    """
    found: dict[str, Path] = {}
    for given in inputs:
        for file in _files(given):
            name = output_name(file)
            if found.setdefault(name, file) != file:
                raise InputError(f"{found[name]} and {file} would both be written to {name}; give one at a time.")
    folders = {f"--input {file}": file.parent for file in found.values()}
    if truth is not None:
        folders[f"--compare {truth}"] = truth
    results = {(output / name).resolve() for name in RESULTS}
    for given, folder in folders.items():
        folder = folder.resolve()
        if folder == output.resolve() or results & {folder, *folder.parents}:
            raise InputError(f"{given} lies where results would be written; give another --output.")
    return list(found.values())


def _files(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.suffix.lower() in {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES})
    else:
        # A file's name may hold characters of a pattern.
        paths = [path] if path.is_file() else map(Path, sorted(glob.glob(given, recursive=True)))
    files = [file for file in paths if file.is_file()]
    if not files:
        raise InputError(f"--input {given} is no image or video, and no folder or pattern of any; correct it.")
    return files

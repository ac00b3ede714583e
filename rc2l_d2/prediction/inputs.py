"""Which pictures and videos the words of a command line mean, and what is written for each."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..data.datasets.image_lists import IMAGE_SUFFIXES
from ..errors import InputError

# Folders below --output that hold what is written beside the overlays.
RESULTS = ("labels", "confidence", "comparison")
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}


def is_video(file: Path) -> bool:
    """By its name; what is no video is taken for a picture."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def output_name(file: Path) -> str:
    """Of the picture or video that is written for ``file``."""
    return f"{file.stem}.mp4" if is_video(file) else f"{file.stem}.png"


def find_inputs(inputs: Sequence[str], output: Path, truth: Path | None = None) -> list[Path]:
    """The files that files, folders (their pictures and videos) and globs name, in order, each once.

    Args:
        inputs: as given.
        output: the folder to write to.
        truth: a folder of labels that is read too.

    Raises:
        InputError: one of them names nothing, two would be written to one file, or one over an input or a label.
    """
    found: dict[str, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            known = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
            paths = sorted(file for file in path.iterdir() if file.suffix.lower() in known and file.is_file())
        else:
            paths = [path] if path.is_file() else [*map(Path, sorted(glob.glob(given, recursive=True)))]
            paths = [file for file in paths if file.is_file()]
        if not paths:
            raise InputError(f"--input {given} is neither a picture or video nor a folder or pattern with some in it.")
        for file in paths:
            name = output_name(file)
            if found.setdefault(name, file) != file:
                raise InputError(
                    f"{found[name]} and {file} would both be written to {name}; run this once for each of them, with "
                    "another --output."
                )
    sources = {file.resolve() for file in found.values()}
    for name, file in found.items():
        if (output / name).resolve() in sources:
            raise InputError(f"What is seen in {file} would be written over {output / name}; give another --output.")
    written = {(output / name).resolve() for name in RESULTS}
    for file in found.values():
        if written & {*file.resolve().parents}:
            raise InputError(f"{file} lies where results would be written; give another --output.")
    if truth is not None:
        place = truth.resolve()
        if place == output.resolve() or written & {place, *place.parents}:
            raise InputError(f"--compare {truth} lies where results would be written; give another --output.")
    return list(found.values())

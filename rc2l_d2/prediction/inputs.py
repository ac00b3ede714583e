"""The input files of a command line, and the names of their outputs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..data.datasets.image_lists import IMAGE_SUFFIXES, OTHER_SUFFIXES
from ..data.datasets.image_search import images_below
from ..errors import InputError

RESULTS = ("labels", "confidence", "comparison")  # folders below --output for everything but the overlays
LEGEND = "legend.svg"  # in every output folder, by which results of an earlier call are known
_LABEL_ENDS = (".png", ".tif")
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
        InputError: an input matches no file, two files have one overlay, or an input or the folder of labels ``truth``
            lies where results are written: directly in ``output``, or in a folder of RESULTS.
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
    folders = {f"--input {one.file}": one.file.parent for one in found.values()}
    if truth is not None:
        folders[f"--compare {truth}"] = truth
    results = {(output / name).resolve() for name in RESULTS}
    for given, folder in folders.items():
        folder = folder.resolve()
        if folder == output.resolve() or results & {folder, *folder.parents}:
            raise InputError(f"{given} lies where results would be written; give another --output.")
    return list(found.values())


def refuse_one_path(inputs: Sequence[Input], labels: bool, confidence: bool, comparison: bool) -> None:
    """Refuse inputs of which one's overlay would be written over another's labels, confidence maps or comparison.

    Args:
        inputs: from :func:`find_inputs`.
        labels, confidence, comparison: which of these are written.
    """
    files, frames = {one.overlay: one for one in inputs}, {}
    for one in inputs:
        if is_video(one.file):
            frames |= {f"labels/{one.name}": one} if labels else {}
            continue
        paths = [f"labels/{one.name}.png"] * labels + [f"comparison/{one.name}.png"] * comparison
        for path in paths:
            _refuse_pair(one, files.setdefault(path, one))
    maps = {f"confidence/{one.name}": one for one in inputs} if confidence else {}
    for path, one in files.items():
        folder, name = os.path.split(path)
        if re.fullmatch(r"\d{6,}\.png", name):
            _refuse_pair(one, frames.get(folder, one))
        _refuse_pair(one, maps.get(folder, one))


def refuse_lost_files(
    inputs: Sequence[Input], output: Path, labels: bool, confidence: bool, comparison: bool, truth: Path | None = None
) -> None:
    """Refuse results that would replace an input, a label image, or a file that is no result of an earlier call.

    Args:
        inputs, labels, confidence, comparison: see :func:`refuse_one_path`.
        output: folder of the results.
        truth: folder of label images.
    """
    root, kept = output.resolve(), {one.file.resolve() for one in inputs}
    is_ours, label_folder = _is_result(output / LEGEND), truth and truth.resolve()
    for one in inputs:
        labels_of = [f"labels/{one.name}"] if is_video(one.file) else [f"labels/{one.name}{end}" for end in _LABEL_ENDS]
        names = [one.overlay, *(labels_of if labels else ()), *[f"confidence/{one.name}"] * confidence]
        for path in (root / name for name in [*names, *[f"comparison/{one.name}.png"] * comparison]):
            is_label = label_folder in path.parents and path.exists() and not (is_ours and label_folder in root.parents)
            if path in kept or is_label:
                kind = "an input" if path in kept else "a label image"
                raise InputError(f"{path} is {kind}, which a result would replace; give another --output.")
            if not is_ours and path.exists():
                raise InputError(
                    f"{path} exists and is no result of an earlier call (no {LEGEND} of one is in {output}); give "
                    f"another --output, or remove it."
                )


def _is_result(legend: Path) -> bool:
    """Whether a file is a legend of an earlier call, as Matplotlib writes it, and not one of the user's."""
    return legend.is_file() and b"matplotlib" in legend.read_bytes()[:4096].lower()


def _refuse_pair(one: Input, other: Input) -> None:
    if one != other:
        raise InputError(
            f"{one.file} and {other.file} would have results of one path; give one at a time, each with its own "
            f"--output."
        )


def _files(given: str, output: Path) -> list[Input]:
    path = Path(given)
    if path.is_dir():
        root, paths = path, map(Path, images_below(given, (*IMAGE_SUFFIXES, *OTHER_SUFFIXES, *VIDEO_SUFFIXES)))
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

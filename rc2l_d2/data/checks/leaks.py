"""Find copies of held-out images, re-encoded or resized, among the images of training; and images made from others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..labels.derived import companions, derived_images
from .remark import Remark
from .scan import ScanReport

# Two images are copies if their fingerprints differ by at most so many grey levels (root mean square) and by at most
# this fraction of their contrast. JPEG of quality 30 at a third of the size differs by up to 1.2 levels in CamVid, 2.0
# in MSRC-21; the most similar frames of CamVid by 2.1.
_LEVELS, _OF_CONTRAST = 2.0, 0.1
# Correlation of what 2 x 2 grey levels of a fingerprint differ by: 0.97 and more in those copies, about 0 in the noise
# of two photographs of one scene. Smaller differences than _DETAIL levels (root mean square) do not count.
_SAME_DETAIL, _DETAIL = 0.8, 0.3
_FLAT = 6.0  # standard deviation in grey levels, below which images (empty tiles) cannot be told apart
_BLOCK = 4096
_EXAMPLES = 10


def leaks(reports: Sequence[ScanReport]) -> list[Remark]:
    """Return a problem for each training stream that has copies of images of the held-out one."""
    held_out = [report for report in reports if report.split.held_out]
    remarks = []
    for report in [report for report in reports if not report.split.held_out]:
        pairs = [pair for held in held_out for pair in copies(report, held)]
        if pairs:
            what = f"{report.split.name} has {len(pairs)} images that are copies of held-out ones, of those read"
            names = tuple(f"{first} (copy of {second})" for first, second in pairs[:_EXAMPLES])
            advice = "take them out of one of the two, or the result is not valid"
            remarks.append(Remark(True, what, names, len(pairs), advice))
    return remarks


def with_held_out_apart(reports: Sequence[ScanReport], held_out: Sequence[str]) -> list[ScanReport]:
    """Return the reports, with one more that holds the fingerprints of ``held_out``, files of the first report."""
    first, *rest = reports
    prints = first.fingerprints
    apart = {file: prints[file] for file in held_out if file in prints}
    kept = {file: print_ for file, print_ in prints.items() if file not in apart}
    other = ScanReport(replace(first.split, held_out=True), fingerprints=apart)
    return [replace(first, fingerprints=kept), *rest, other]


def copies(report: ScanReport, other: ScanReport) -> list[tuple[str, str]]:
    """Return (path, path of its copy) for the images of ``report`` that ``other`` has at other paths."""
    if not (report.fingerprints and other.fingerprints):
        return []
    files, known_files = list(report.fingerprints), list(other.fingerprints)
    (prints, details), (known, known_details) = (_split(source.fingerprints.values()) for source in (report, other))
    known_norm, contrast = (known**2).mean(axis=1), known.std(axis=1)
    found = []
    for first in range(0, len(prints), _BLOCK):
        block = prints[first : first + _BLOCK]
        squares = (block**2).mean(axis=1)[:, None] + known_norm - 2 / block.shape[1] * (block @ known.T)
        allowed = np.minimum(_LEVELS, _OF_CONTRAST * contrast)
        close = (squares <= allowed**2) & (contrast > _FLAT)
        for row in np.flatnonzero(close.any(axis=1)):
            place = int(np.where(close[row], squares[row], np.inf).argmin())
            pair = files[first + row], known_files[place]
            if not _same_detail(details[first + row], known_details[place]):
                continue
            if os.path.realpath(pair[0]) != os.path.realpath(pair[1]):  # which other checks report
                found.append(pair)
    return found


def derived(reports: Sequence[ScanReport]) -> list[Remark]:
    """Return a warning if unlabelled images are labels or were made from labelled ones, as overlays are."""
    labelled = [path for report in reports if report.split.labelled for path in report.fingerprints]
    remarks = []
    for report in [report for report in reports if not report.split.labelled and labelled]:
        images = list(report.fingerprints)
        folders = [os.path.join(os.path.commonpath(paths), "") for paths in (images, labelled)] if images else []
        made = list(derived_images(images, folders[0], labelled, folders[1])) if folders else []
        made = [*dict.fromkeys([*made, *companions(images, labelled)])]
        if made:
            what = f"{report.split.name} has {len(made)} images that seem to be labels or made from labelled images"
            advice = "leave overlays and drawn labels out, with a folder or pattern without them"
            remarks.append(Remark(False, what, tuple(made[:_EXAMPLES]), len(made), advice))
    return remarks


def _split(prints: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints as the means of 2 x 2 of their grey levels (n, 256), and the differences to these (n, 1024)."""
    levels = np.frombuffer(b"".join(prints), np.uint8).reshape(len(prints), 16, 2, 16, 2).astype(np.float32)
    means = levels.mean(axis=(2, 4), keepdims=True)
    return means.reshape(len(prints), -1), (levels - means).reshape(len(prints), -1)


def _same_detail(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the detail of two images, (1024,) each, agrees or is too faint to tell."""
    sizes = np.linalg.norm(first), np.linalg.norm(second)
    if min(sizes) < _DETAIL * len(first) ** 0.5:
        return True
    return float(first @ second) > _SAME_DETAIL * sizes[0] * sizes[1]

"""Check a data set before it costs training time, and count its classes.

    rc2l-check --config-file FILE [--full] [--workers N] [KEY VALUE ...]
    rc2l-check --definition YAML [--full] [--workers N] [PART ...]

The first checks what DATASETS.TRAIN, UNLABELED and TEST of a configuration name, the second the parts of one data set's
YAML file (all, or those named; a part is labelled if all its images are). A sample of each is read; ``--full``
reads all. The exit status is 2 where something would spoil training: files that cannot be read, labels that do not fit,
images in two streams, labels that show one class only, and, where all labels were read, a class that no training label
has. Warnings leave it at 0.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from tabulate import tabulate
from tqdm import tqdm

from ..data.checks.check import (
    Part,
    Remark,
    config_parts,
    definition_parts,
    nothing_to_tell_apart,
    remarks_on,
    shared_images,
    unlearnable_classes,
)
from ..data.checks.scan import ScanReport
from ..engine import RC2LTrainer, load_config
from ..errors import InputError
from .cli import run_cli

SAMPLE = 200


def read_part(part: Part, full: bool, workers: int, seed: int) -> ScanReport:
    """Read a part's files: all of them with a progress bar, or a sample."""
    if not full:
        return part.scan(SAMPLE, seed=seed)
    with tqdm(total=len(part.entries), desc=part.name, unit="image", disable=None) as bar:
        return part.scan(processes=workers, progress=bar.update)


def summary(part: Part, report: ScanReport) -> str:
    """One line: how many images, their sizes, the time."""
    kind = "images with labels" if part.labelled else "images without labels"
    read = "all" if report.complete else f"a sample of {report.scanned}"
    line = f"{part.name}: {report.total} {kind}, {read} read in {report.seconds:.1f} s"
    sizes = report.size_range()
    if sizes is None:
        return line
    small, median, large = (f"{width}x{height}" for height, width in sizes)
    return f"{line}; all {small} pixels" if len(report.sizes) == 1 else f"{line}; {small} to {large}, median {median}"


def class_table(part: Part, report: ScanReport) -> str:
    """How often each class occurs in the labels that were read."""
    total = max(1, int(report.pixels.sum()))
    rows = [
        [name, int(images), f"{100 * int(pixels) / total:.3f}", "" if images else "ABSENT"]
        for name, images, pixels in zip(part.classes, report.images_with, report.pixels, strict=True)
    ]
    headers, align = ["class", "images", "% of pixels", ""], ("left", "right", "right", "left")
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=align)
    ignored = 100 * report.ignored / max(1, int(report.pixels.sum()) + report.ignored)
    return f"{table}\n{report.labels} labels; {ignored:.2f} % of their pixels are ignored and not counted above"


def show(remark: Remark) -> None:
    """Print a remark, one file a line."""
    advice = f"; {remark.advice}" if remark.advice else ""
    print(f"{'PROBLEM' if remark.fatal else 'warning'}: {remark.what}{advice}{':' if remark.names else '.'}")
    for name in remark.names:
        print(f"    {name}")
    if remark.count > len(remark.names):
        print(f"    ... and {remark.count - len(remark.names)} more")


def check(parts: Sequence[Part], remarks: list[Remark], full: bool, workers: int, seed: int) -> int:
    """Read the parts and print what was found, with ``remarks`` known before; the exit status."""
    if not full:
        print(f"At most {SAMPLE} images of each part are read, drawn with seed {seed}; --full reads all.")
    reports = []
    for part in parts:
        report = read_part(part, full, workers, seed)
        print(f"\n{summary(part, report)}")
        if part.labelled:
            print(class_table(part, report))
        remarks = remarks + ([part.note] if part.note else []) + remarks_on(part, report)
        reports.append(report)
    remarks = remarks + (nothing_to_tell_apart(parts, reports) or unlearnable_classes(parts, reports))
    print()
    for remark in remarks:
        show(remark)
    problems = sum(remark.fatal for remark in remarks)
    print(f"Problems: {problems}, warnings: {len(remarks) - problems}.")
    return 2 if problems else 0


def main() -> int:
    """What the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config-file", metavar="FILE", help="check what this configuration's DATASETS name")
    source.add_argument("--definition", metavar="YAML", help="check the parts of this data set's YAML file")
    parser.add_argument("--full", action="store_true", help="read every file, with several processes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes for --full (%(default)s)")
    parser.add_argument("rest", nargs="*", help="config overrides KEY VALUE ..., or names of parts")
    return run_cli(parser, run)


def run(args: argparse.Namespace) -> int:
    """Check the data set or the configuration of the command line; return the exit status.

    Raises:
        InputError: an option cannot be used.
    """
    if args.workers < 1:
        raise InputError(f"--workers is {args.workers}; give at least 1.")
    if args.definition:
        return check(definition_parts(args.definition, args.rest), [], args.full, args.workers, seed=0)
    cfg = load_config(args.config_file, args.rest)
    parts = config_parts(cfg, RC2LTrainer.uses_unlabeled(cfg))
    return check(list(parts.values()), shared_images(cfg, parts), args.full, args.workers, max(cfg.SEED, 0))

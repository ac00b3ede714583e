"""Check a data set before it costs training time, and count its classes.

    rc2l-check --config-file FILE [--full] [--workers N] [KEY VALUE ...]
    rc2l-check --definition YAML [--full] [--workers N] [SPLIT ...]

The first checks DATASETS.TRAIN, UNLABELED and TEST of a configuration, the second the splits of one data set's YAML
file (all, or those named; a split is labelled if all its images are). A sample of each is read; ``--full`` reads all.
The exit status is 2 if something would spoil training: files that cannot be read, labels that do not fit, images in two
streams, labels that show one class only, and, if all labels were read, a class that no training label has. Warnings
leave it at 0.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from tabulate import tabulate
from tqdm import tqdm

from ..data.checks.check import class_problems, config_splits, definition_splits, remarks_on, shared_images
from ..data.checks.leaks import derived, leaks
from ..data.checks.remark import Remark
from ..data.checks.scan import ScanReport, Split, scan
from ..data.checks.tables import tables_of
from ..engine import RC2LTrainer, load_config
from ..errors import InputError
from .cli import run_cli

SAMPLE = 200


def read_split(split: Split, full: bool, workers: int, seed: int) -> ScanReport:
    """Read all files of a split with a progress bar, or a sample."""
    if not full:
        return scan(split, SAMPLE, seed)
    with tqdm(total=len(split.entries), desc=split.name, unit="image", disable=None) as bar:
        return scan(split, processes=workers, progress=bar.update)


def summary(report: ScanReport) -> str:
    """Return one line: number of images, their sizes, the time."""
    kind = "images with labels" if report.split.labelled else "images without labels"
    read = "all" if report.complete else f"a sample of {report.scanned}"
    line = f"{report.split.name}: {len(report.split.entries)} {kind}, {read} read in {report.seconds:.1f} s"
    sizes = [f"{width}x{height}" for height, width in sorted(report.sizes, key=math.prod)]
    if len(sizes) > 1:
        return f"{line}; {sizes[0]} to {sizes[-1]} pixels"
    return f"{line}; all {sizes[0]} pixels" if sizes else line


def class_table(report: ScanReport) -> str:
    """Return the frequency of each class in the labels that were read."""
    total = int(report.pixels.sum())
    rows = [
        [name, int(images), f"{100 * int(pixels) / max(1, total):.3f}", "" if images else "ABSENT"]
        for name, images, pixels in zip(report.split.classes, report.images_with, report.pixels, strict=True)
    ]
    headers, align = ["class", "images", "% of pixels", ""], ("left", "right", "right", "left")
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=align)
    ignored = 100 * report.ignored / max(1, total + report.ignored)
    return f"{table}\n{report.labels} labels; {ignored:.2f} % of their pixels are ignored and not counted above"


def show(remark: Remark) -> None:
    """Print a remark, one file per line."""
    advice = f"; {remark.advice}" if remark.advice else ""
    print(f"{'PROBLEM' if remark.fatal else 'warning'}: {remark.what}{advice}{':' if remark.names else '.'}")
    for name, detail in zip(remark.names, remark.details or [""] * len(remark.names), strict=True):
        print(f"    {name} ({detail})" if detail else f"    {name}")
    if remark.count > len(remark.names):
        print(f"    ... and {remark.count - len(remark.names)} more")


def check(splits: Sequence[Split], remarks: list[Remark], full: bool, workers: int, seed: int) -> int:
    """Read the splits and print all findings, after the ``remarks`` known before; return the exit status."""
    if not full:
        print(f"At most {SAMPLE} images of each split are read, sampled with seed {seed}; --full reads all.")
    reports = []
    for split in splits:
        report = read_split(split, full, workers, seed)
        print(f"\n{summary(report)}")
        if split.labelled:
            print(class_table(report))
        remarks = remarks + remarks_on(report)
        reports.append(report)
    remarks = remarks + class_problems(reports) + leaks(reports) + derived(reports)
    print()
    for remark in remarks:
        show(remark)
    problems = sum(remark.fatal for remark in remarks)
    print(f"Problems: {problems}, warnings: {len(remarks) - problems}.")
    return 2 if problems else 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config-file", metavar="FILE", help="check the DATASETS of this configuration")
    source.add_argument("--definition", metavar="YAML", help="check the splits (parts) of this data set's YAML file")
    parser.add_argument("--full", action="store_true", help="read every file, with several processes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes for --full (%(default)s)")
    parser.add_argument("rest", nargs="*", help="config overrides KEY VALUE ..., or names of splits")
    return run_cli(parser, run)


def run(args: argparse.Namespace) -> int:
    """Check the data set or the configuration of the command line; return the exit status."""
    if args.workers < 1:
        raise InputError(f"--workers is {args.workers}; give at least 1.")
    if args.definition:
        return check(*definition_splits(args.definition, args.rest), args.full, args.workers, seed=0)
    cfg = load_config(args.config_file, args.rest)
    splits = config_splits(cfg, RC2LTrainer.uses_unlabeled(cfg))
    remarks = [*shared_images(cfg, splits), *tables_of([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])]
    return check(list(splits.values()), remarks, args.full, args.workers, max(cfg.SEED, 0))

#!/usr/bin/env python3
"""Draw the labelled images of a data set with a seed, and write both lists in UniMatch's format.

    python tools/make_splits.py camvid_train --definition configs/camvid/dataset.yaml --fraction 0.125 --seed 0 \
        --output splits/camvid/1_8

writes labeled.txt and unlabeled.txt, to be named in DATASETS.LABELED_LIST and DATASETS.UNLABELED_LIST. Without
``--balanced`` the draw is that of ``{of: train, fraction: 0.125, seed: 0}`` in the YAML file; with it, every class that
occurs is in a labelled image at least. A mistake in what was given is told in one sentence, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.data import described_part, load_dataset, read_label, register_definition  # noqa: E402
from rc2l_d2.data.datasets.image_lists import draw_balanced, draw_uniform, write_list  # noqa: E402
from rc2l_d2.data.loading.mappers import check_label  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402

_LISTS = ("labeled.txt", "unlabeled.txt")


def class_presence(entries: Sequence[dict], num_classes: int, ignore_value: int) -> np.ndarray:
    """(n, K) bool: which label file has which class.

    Raises:
        InputError: a label cannot be read, or has a value that is no class.
    """

    def classes_in(entry: dict) -> np.ndarray:
        label = read_label(entry["sem_seg_file_name"], entry["label_map"])
        check_label(label, label.shape, entry, num_classes, ignore_value)
        return np.bincount(label.ravel(), minlength=256)[:num_classes] > 0

    with ThreadPoolExecutor() as pool:
        rows = tqdm(pool.map(classes_in, entries), total=len(entries), unit="label", disable=None)
        return np.array(list(rows)).reshape(len(entries), num_classes)


def draw(args: argparse.Namespace) -> str:
    """Write the two lists; returns a sentence on what they hold.

    Raises:
        InputError: the data set, the number or the folder cannot be used.
    """
    if args.definition:
        register_definition(args.definition)
    definition, _ = described_part(args.dataset)
    entries = load_dataset(args.dataset, labels="all", key="The command line")
    count = len(entries)
    if args.number is None and not 0 < args.fraction <= 1:
        raise InputError(f"--fraction is {args.fraction:g}; give a number above 0 and at most 1.")
    number = args.number if args.number is not None else max(1, round(count * args.fraction))
    if not 1 <= number <= count:
        raise InputError(f"{number} labelled images were asked for, of {count} in {args.dataset}; give 1 to {count}.")
    if not 0 <= args.seed < 2**32:
        raise InputError(f"--seed is {args.seed}; give a whole number from 0 to 4294967295.")
    output = _output_folder(args.output)
    known = len(definition.classes), definition.ignore_value
    if args.balanced:
        presence = class_presence(entries, *known)
        try:
            chosen = draw_balanced(presence, number, args.seed)
        except ValueError as error:
            raise InputError(f"With --seed {args.seed} {error}; ask for more, or try another seed.") from error
        covered = presence[chosen].any(axis=0)
    else:
        chosen = draw_uniform(count, number, args.seed)
        covered = class_presence([entries[index] for index in chosen], *known).any(axis=0)
    root = os.path.realpath(definition.root())
    rest = np.setdiff1d(np.arange(count), chosen)
    for name, indices in zip(_LISTS, (chosen, rest), strict=True):
        part = [entries[index] for index in indices]
        images, labels = (
            [os.path.relpath(entry[key], root) for entry in part] for key in ("file_name", "sem_seg_file_name")
        )
        with _told(args.output):
            write_list(output / name, images, labels)
    absent = [name for name, found in zip(definition.classes, covered, strict=True) if not found]
    return (
        f"{output}: {number} labelled and {len(rest)} unlabelled images of {args.dataset}; classes without a labelled "
        f"image: {', '.join(absent) or 'none'}"
    )


def _output_folder(path: str) -> Path:
    """The folder, made where it is not there; before anything is read that takes long."""
    output = Path(path)
    with _told(path):
        output.mkdir(parents=True, exist_ok=True)
        existing = [output / name for name in _LISTS if (output / name).exists()]
        tempfile.TemporaryFile(dir=output).close()
    if existing:
        raise InputError(f"{existing[0]} is there already; remove it, or name another --output.")
    return output


@contextmanager
def _told(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}); name another.") from error


def main() -> int:
    """What the command line asks for; 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="the part to draw from, as camvid_train or voc2012_trainaug")
    parser.add_argument("--definition", metavar="YAML", help="the description of a data set of your own")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--number", type=int, help="labelled images to draw")
    size.add_argument("--fraction", type=float, help="the same as a part of all, as 0.125")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another draw (%(default)s)")
    parser.add_argument("--balanced", action="store_true", help="every class in one labelled image at least")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to write the two lists")
    args = parser.parse_args()
    try:
        print(draw(args))
    except InputError as error:
        print(f"make_splits.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

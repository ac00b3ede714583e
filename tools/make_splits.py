"""Sample the labelled images of a data set with a seed, and write both lists in UniMatch's format.

    python tools/make_splits.py camvid_train --definition configs/camvid/dataset.yaml --fraction 0.125 --seed 0 \
        --output splits/camvid/1_8

writes labeled.txt and unlabeled.txt for DATASETS.LABELED_LIST and DATASETS.UNLABELED_LIST. The sample is that of
``{of: train, fraction: 0.125, seed: 0}`` in the YAML file, with ``--balanced`` that of ``{..., balanced: true}``: every
class that occurs is in at least one labelled image. An error in the input gives one sentence and exit status 2.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data import load_dataset, load_definition, register_definition
from rc2l_d2.data.datasets.image_lists import is_path, write_list
from rc2l_d2.data.datasets.presence import class_presence
from rc2l_d2.data.datasets.sampling import sample_balanced, sample_uniform
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog

_LISTS = ("labeled.txt", "unlabeled.txt")


def run(args: argparse.Namespace) -> int:
    """Write the two lists, print a sentence on their content and return 0; InputError if that is impossible."""
    try:
        print(make_splits(args))
    except OSError as error:
        raise InputError(f"--output {args.output} cannot be written ({error.strerror}); name another.") from error
    return 0


def make_splits(args: argparse.Namespace) -> str:
    """Write the two lists; returns a sentence on their content. InputError or OSError if that is impossible."""
    if args.definition:
        register_definition(args.definition)
    entries = load_dataset(args.dataset, labels="all", key="The command line")
    described = MetadataCatalog.get(args.dataset).get("definition_file")
    if described is None:
        raise InputError(f"No YAML file describes the data set '{args.dataset}'; name one that has a description.")
    definition, count = load_definition(described), len(entries)
    if args.number is None and not 0 < args.fraction <= 1:
        raise InputError(f"--fraction is {args.fraction:g}; give a number above 0 and at most 1.")
    number = args.number if args.number is not None else max(1, round(count * args.fraction))
    if not 1 <= number <= count:
        raise InputError(f"{number} labelled images are more or fewer than {args.dataset} has; give 1 to {count}.")
    if not 0 <= args.seed < 2**32:
        raise InputError(f"--seed is {args.seed}; give a whole number from 0 to 4294967295.")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for file in (output / name for name in _LISTS):
        if file.exists():
            raise InputError(f"{file} exists already; remove it, or name another --output.")
    classes = definition.classes
    if args.balanced:
        presence = class_presence(entries, len(classes), definition.ignore_value)
        chosen = sample_balanced(presence, number, args.seed)
        covered = presence[chosen]
    else:
        chosen = sample_uniform(count, number, args.seed)
        covered = class_presence([entries[i] for i in chosen], len(classes), definition.ignore_value)
    absent = [name for name, found in zip(classes, covered.any(axis=0), strict=True) if not found]
    root = os.path.realpath(definition.root())
    rest = np.setdiff1d(np.arange(count), chosen)
    for name, indices in zip(_LISTS, (chosen, rest), strict=True):
        keys = ("file_name", "sem_seg_file_name")
        images, labels = ([os.path.relpath(entries[index][key], root) for index in indices] for key in keys)
        # Annotations are found by the description's rules.
        write_list(output / name, images, labels if all(map(is_path, labels)) else [None] * len(labels))
    return (
        f"{output}: {number} labelled and {len(rest)} unlabelled images of {args.dataset}; classes without a labelled "
        f"image: {', '.join(absent) or 'none'}"
    )


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="the split to sample from, as camvid_train or voc2012_trainaug")
    parser.add_argument("--definition", metavar="YAML", help="the description of a data set of your own")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--number", type=int, help="labelled images to sample")
    size.add_argument("--fraction", type=float, help="labelled fraction of all images, as 0.125")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (%(default)s)")
    parser.add_argument("--balanced", action="store_true", help="every class in at least one labelled image")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to write the two lists")
    return run_cli(parser, run)


if __name__ == "__main__":
    sys.exit(main())

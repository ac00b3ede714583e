"""Write a run's model file with weights of half precision, as the files in models/ have them.

    python tools/shrink_model.py output/msrc21_rc2l_1_8/teacher_final.pth models/msrc21.pth

Predictions are computed in float32 as before, from the rounded weights. Exit status 2 after a user's mistake.
"""

import argparse
import sys

import torch

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.engine import load_model_file
from rc2l_d2.engine.model_file import find_known_file, without_paths
from rc2l_d2.engine.weights import read_file
from rc2l_d2.engine.whole_files import write_checkpoint
from rc2l_d2.errors import InputError
from rc2l_d2.host import CfgNode


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``weights`` with float16 in place of other floating-point types.

    Raises:
        InputError: a weight is too large for float16.
    """
    small = {name: x.half() if x.is_floating_point() else x for name, x in weights.items()}
    if large := [name for name, x in small.items() if x.is_floating_point() and x.isinf().any()]:
        raise InputError(f"{large[0]} has values above {torch.finfo(torch.float16).max:.0f}; keep the larger file.")
    return small


def shrink(args: argparse.Namespace) -> int:
    """Write the smaller file and return 0; InputError if ``args.file`` is no model file."""
    load_model_file(args.file)  # A file that does not fit this version is refused.
    content = read_file(find_known_file(args.file))
    config = without_paths(CfgNode.load_cfg(content["config"])).dump()  # Earlier versions wrote paths.
    write_checkpoint({**content, "config": config, "model": halved(content["model"])}, args.output)
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="teacher_final.pth of a run")
    parser.add_argument("output", help="the file to write")
    return run_cli(parser, shrink)


if __name__ == "__main__":
    sys.exit(main())

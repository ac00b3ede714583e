"""Convert the state dict of a torchvision ResNet (18, 34, 50, 101 or 152) to backbone weights.

    python tools/convert_torchvision_weights.py resnet50-11ad3fa6.pth R-50.pkl

Training also reads the file as it is; the result is for other projects. Either is given as MODEL.WEIGHTS, with
INPUT.FORMAT RGB, PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD [58.395, 57.120, 57.375] and RESNETS.STRIDE_IN_1X1
False. A .pkl has the format of Detectron2's model zoo, a .pth that of torch.
"""

import argparse
import pickle
import sys
from pathlib import Path

import torch

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.engine.weight_names import of_backbone, resnet_depth
from rc2l_d2.engine.weights import read_weights
from rc2l_d2.errors import InputError


def run(source: str, target: str) -> str:
    """Convert the file ``source`` to ``target``; return a sentence about it.

    Raises:
        InputError: ``source`` is not a torchvision ResNet, or ``target`` no .pkl or .pth file in an existing folder.
    """
    if Path(target).suffix not in (".pkl", ".pth"):
        raise InputError(f"{target} must end in .pkl or .pth; choose another name.")
    if not Path(target).parent.is_dir():
        raise InputError(f"{target} cannot be written, since its folder does not exist; create it or choose another.")
    content = read_weights(source)
    if not content["torchvision"]:
        raise InputError(
            f"{source} is not the state dict of a torchvision ResNet-18, -34, -50, -101 or -152; give one of these."
        )
    weights = content["model"]
    converted = of_backbone(weights)
    zoo_format = {"__author__": "torchvision", "matching_heuristics": True}
    if target.endswith(".pkl"):
        arrays = {name: value.numpy() for name, value in converted.items()}
        Path(target).write_bytes(pickle.dumps({"model": arrays, **zoo_format}))
    else:
        torch.save({"model": converted, **zoo_format}, target)
    unused = ", ".join(name for name in weights if not name.startswith("backbone."))
    return (
        f"ResNet-{resnet_depth(converted)}: {len(converted)} weights written to {target}; not used: {unused or 'none'}"
    )


def convert(args: argparse.Namespace) -> int:
    """Convert the file, print a sentence about it and return 0; InputError if that is impossible."""
    try:
        print(run(args.source, args.target))
    except OSError as error:
        raise InputError(f"{args.target} cannot be written ({error.strerror or error}); choose another.") from error
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision's .pth file")
    parser.add_argument("target", help="output file, .pkl or .pth")
    return run_cli(parser, convert)


if __name__ == "__main__":
    sys.exit(main())

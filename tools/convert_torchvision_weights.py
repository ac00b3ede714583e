"""Convert the state dict of a torchvision ResNet (18, 34, 50, 101 or 152) to backbone weights.

    python tools/convert_torchvision_weights.py resnet50-11ad3fa6.pth R-50.pkl

Give the result as MODEL.WEIGHTS, with INPUT.FORMAT RGB, PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD [58.395,
57.120, 57.375] and RESNETS.STRIDE_IN_1X1 False. A .pkl has the format of Detectron2's model zoo, a .pth that of torch.
"""

import argparse
import pickle
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from rc2l_d2.engine.weights import read_file, resnet_depth
from rc2l_d2.errors import InputError

# Patterns of torchvision's names -> Detectron2's names; the stage number is one higher there.
_NAMES = {
    r"conv1\.(\w+)": r"stem.conv1.\1",
    r"bn1\.(\w+)": r"stem.conv1.norm.\1",
    r"layer(\d\.\d+)\.(conv\d\.\w+)": r"res\1.\2",
    r"layer(\d\.\d+)\.bn(\d)\.(\w+)": r"res\1.conv\2.norm.\3",
    r"layer(\d\.\d+)\.downsample\.0\.(\w+)": r"res\1.shortcut.\2",
    r"layer(\d\.\d+)\.downsample\.1\.(\w+)": r"res\1.shortcut.norm.\2",
}


def new_name(name: str) -> str | None:
    """Return Detectron2's name of a weight, None if a backbone does not have it."""
    for pattern, replacement in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return re.sub(r"^res(\d)", lambda stage: f"res{int(stage[1]) + 1}", match.expand(replacement))
    return None


def is_plain(weights: dict[str, Tensor]) -> bool:
    """Return whether the first block (Detectron2's names) has a plain ResNet's width and no groups."""
    side = 1 if "res2.0.conv3.weight" in weights else 3
    names = [f"res2.0.conv{number}.weight" for number in (1, 2)]
    shapes = [tuple(weights[name].shape) for name in names if name in weights]
    return shapes == [(64, 64, side, side), (64, 64, 3, 3)]


def run(source: str, target: str) -> str:
    """Convert the file ``source`` to ``target``; return a sentence about it.

    Raises:
        InputError: ``source`` is not a torchvision ResNet, or ``target`` does not end in .pkl or .pth.
    """
    if Path(target).suffix not in (".pkl", ".pth"):
        raise InputError(f"{target} must end in .pkl or .pth; choose another name.")
    content = read_file(source)
    items = content.items() if isinstance(content, dict) else ()
    weights = {name: value for name, value in items if isinstance(value, Tensor)}
    names = {name: new_name(name) for name in weights}
    converted = {new: weights[name] for name, new in names.items() if new is not None}
    depth = resnet_depth(converted)
    if depth is None or not is_plain(converted):
        raise InputError(f"{source} is not the state dict of a torchvision ResNet-18, -34, -50, -101 or -152.")
    zoo_format = {"__author__": "torchvision", "matching_heuristics": True}
    if target.endswith(".pkl"):
        arrays = {name: value.numpy() for name, value in converted.items()}
        Path(target).write_bytes(pickle.dumps({"model": arrays, **zoo_format}))
    else:
        torch.save({"model": converted, **zoo_format}, target)
    unused = ", ".join(name for name, new in names.items() if new is None)
    return f"ResNet-{depth}: {len(converted)} weights written to {target}; not used: {unused or 'none'}"


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision's .pth file")
    parser.add_argument("target", help="output file, .pkl or .pth")
    args = parser.parse_args()
    try:
        print(run(args.source, args.target))
    except (InputError, OSError) as error:
        print(f"convert_torchvision_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Turn a torchvision ResNet (18, 34, 50, 101 or 152; a state dict in a .pth file) into backbone weights for here.

    python tools/convert_torchvision_weights.py resnet50-11ad3fa6.pth R-50.pkl

The result goes into MODEL.WEIGHTS and fits INPUT.FORMAT RGB, PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD [58.395,
57.120, 57.375] and RESNETS.STRIDE_IN_1X1 False. A .pkl is what Detectron2's model zoo has, a .pth a torch file.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.engine.weights import RESNET_DEPTHS, read_file  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402


def new_name(name: str) -> str | None:
    """Detectron2's name for torchvision's, None for what a backbone does not have."""
    stem = re.fullmatch(r"(conv1)\.(\w+)|(bn1)\.(\w+)", name)
    if stem:
        return f"stem.conv1.{stem[2]}" if stem[1] else f"stem.conv1.norm.{stem[4]}"
    layer = re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", name)
    if not layer:
        return None
    stage, block, kind, number, entry = layer.groups()
    place = "shortcut" if kind == "downsample." else f"conv{number}"
    is_norm = kind == "bn" or (kind == "downsample." and number == "1")
    return f"res{int(stage) + 1}.{block}.{place}.{'norm.' if is_norm else ''}{entry}"


def depth_of(weights: dict[str, Tensor]) -> int | None:
    """Which of the five ResNets this is, None if none."""
    blocks = [{name.split(".")[1] for name in weights if name.startswith(f"layer{i}.")} for i in (1, 2, 3, 4)]
    depth = RESNET_DEPTHS.get(("layer1.0.conv3.weight" in weights, tuple(len(stage) for stage in blocks)))
    # Wide ResNets and ResNeXts have as many blocks, but a wider or a grouped 3x3 convolution.
    plain = (64, 64, 1, 1) if "layer1.0.conv3.weight" in weights else (64, 64, 3, 3)
    second = weights.get("layer1.0.conv2.weight")
    same = depth and weights["layer1.0.conv1.weight"].shape == plain and second is not None
    return depth if same and second.shape == (64, 64, 3, 3) else None


def convert(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under their new names, and the names of those that a backbone has no place for."""
    names = {name: new_name(name) for name in weights}
    converted = {new: weights[name] for name, new in names.items() if new is not None}
    return converted, [name for name, new in names.items() if new is None]


def run(source: str, target: str) -> str:
    """Convert the file ``source`` to ``target``; what was done, in words.

    Raises:
        InputError: ``source`` is not a torchvision ResNet, or ``target`` does not end in .pkl or .pth.
    """
    if Path(target).suffix not in (".pkl", ".pth"):
        raise InputError(f"{target} has to end in .pkl or .pth; choose another name.")
    weights = read_file(source)
    if isinstance(weights, dict):
        weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    depth = depth_of(weights) if isinstance(weights, dict) else None
    if depth is None:
        raise InputError(f"{source} is not the state dict of a torchvision ResNet-18, -34, -50, -101 or -152.")
    converted, left = convert(weights)
    content = {"__author__": "torchvision", "matching_heuristics": True}
    if target.endswith(".pkl"):
        arrays = {name: value.numpy() for name, value in converted.items()}
        Path(target).write_bytes(pickle.dumps({"model": arrays, **content}))
    else:
        torch.save({"model": converted, **content}, target)
    return f"ResNet-{depth}: {len(converted)} weights written to {target}; left out: {', '.join(left) or 'none'}"


def main() -> int:
    """What the command line asks for; 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision's .pth file")
    parser.add_argument("target", help="the file to write, .pkl or .pth")
    args = parser.parse_args()
    try:
        print(run(args.source, args.target))
    except (InputError, OSError) as error:
        print(f"convert_torchvision_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

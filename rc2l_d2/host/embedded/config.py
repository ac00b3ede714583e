"""Configuration: Detectron2's keys as far as a semantic segmentation model reads them, and ``configurable``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import yaml
from fvcore.common.config import CfgNode as _CfgNode

_VERSION = 2


class CfgNode(_CfgNode):
    """fvcore's configuration node, which reads files by the safe YAML loader only.

    A file may name one or several files in ``_BASE_`` (relative to itself) whose values it inherits.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Read a YAML file and the files that it is based on into one dictionary.

        Raises:
            FileNotFoundError: the file or one of its bases is not there.
            AssertionError: a group of keys here is a single value in a base.
            ValueError: ``allow_unsafe`` (a configuration must not be able to run code), a tag that is not plain data,
                no valid YAML, not a mapping, or bases that go round in a circle.
        """
        if allow_unsafe:
            raise ValueError(f"{filename}: configuration files are read by the safe YAML loader only")
        try:
            values = super().load_yaml_with_base(filename)
        except yaml.YAMLError as error:
            raise ValueError(f"{filename} is not plain YAML data: {' '.join(str(error).split())}") from error
        except RecursionError as error:
            raise ValueError(f"{filename} is, by way of _BASE_, based on itself") from error
        except (TypeError, AttributeError):  # what fvcore makes of an empty file, or of a base that is not a name
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"{filename} must hold keys and values, and in _BASE_ one or several file names")
        return values

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Take over the values of a YAML file.

        Raises:
            KeyError: a key that does not exist here; the message names it.
            ValueError: as ``load_yaml_with_base``, a value of another type than the present one, or a file for
                another version of Detectron2's keys.
            AssertionError, FileNotFoundError: as ``load_yaml_with_base``.
        """
        values = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        if values.get("VERSION", _VERSION) != _VERSION:
            raise ValueError(f"{cfg_filename}: VERSION is {values['VERSION']}, only {_VERSION} can be read")
        self.merge_from_other_cfg(type(self)(values))


def get_cfg() -> CfgNode:
    """A new configuration with the defaults.

    Names and values are Detectron2's. Beside what this package reads it holds the few keys that MaskFormer's
    configuration files set for semantic segmentation, so that these load (they are marked).
    """
    return CfgNode(
        {
            "VERSION": _VERSION,
            "MODEL": {
                "META_ARCHITECTURE": "GeneralizedRCNN",
                "DEVICE": "cuda",
                # A checkpoint to start from; empty: random weights.
                "WEIGHTS": "",
                # Per channel, in the order of INPUT.FORMAT, on the scale 0 to 255.
                "PIXEL_MEAN": [103.530, 116.280, 123.675],
                "PIXEL_STD": [1.0, 1.0, 1.0],
                # FREEZE_AT: 0 trains all, 1 freezes the stem, 2 also res2, and so on to 5.
                "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
                "RESNETS": {
                    "DEPTH": 50,
                    "OUT_FEATURES": ["res4"],
                    # "BN", "SyncBN", "FrozenBN", "GN" or "" (none).
                    "NORM": "FrozenBN",
                    # A bottleneck's stride is in its first 1x1 convolution (MSRA's weights), or in the 3x3 (torch's).
                    "STRIDE_IN_1X1": True,
                    "STEM_OUT_CHANNELS": 64,
                    # 64 for ResNet-18 and -34, 256 for the deeper ones.
                    "RES2_OUT_CHANNELS": 256,
                    # 2: res5 keeps the resolution of res4.
                    "RES5_DILATION": 1,
                },
                "SEM_SEG_HEAD": {
                    "NAME": "SemSegFPNHead",
                    "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                    "NUM_CLASSES": 54,
                    # Label of pixels that count nowhere.
                    "IGNORE_VALUE": 255,
                    "CONVS_DIM": 128,
                    "NORM": "GN",
                    # Set by MaskFormer's files.
                    "COMMON_STRIDE": 4,
                    "LOSS_WEIGHT": 1.0,
                },
            },
            "INPUT": {
                # Length of the shorter side in pixels: one of these, or from this range ("choice" or "range").
                "MIN_SIZE_TRAIN": (800,),
                "MIN_SIZE_TRAIN_SAMPLING": "choice",
                "MAX_SIZE_TRAIN": 1333,
                # 0: images are tested at their own size.
                "MIN_SIZE_TEST": 800,
                "MAX_SIZE_TEST": 1333,
                # "horizontal", "vertical" or "none".
                "RANDOM_FLIP": "horizontal",
                # SIZE is (height, width): pixels for the type "absolute", fractions for "relative" ones.
                "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
                # "BGR" or "RGB".
                "FORMAT": "BGR",
            },
            "DATASETS": {"TRAIN": (), "TEST": ()},
            # FILTER_EMPTY_ANNOTATIONS: set by MaskFormer's files.
            "DATALOADER": {"NUM_WORKERS": 4, "FILTER_EMPTY_ANNOTATIONS": True},
            "SOLVER": {
                # Images per step over all processes.
                "IMS_PER_BATCH": 16,
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
                # In iterations.
                "CHECKPOINT_PERIOD": 5000,
                "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
                "AMP": {"ENABLED": False},
            },
            "TEST": {
                # In iterations; 0: only at the end.
                "EVAL_PERIOD": 0,
                # Test-time augmentation: lengths of the shorter side in pixels, limit of the longer one, mirrored too.
                "AUG": {"ENABLED": False, "MIN_SIZES": tuple(range(400, 1300, 100)), "MAX_SIZE": 4000, "FLIP": True},
            },
            # In iterations, of training pictures in TensorBoard; 0: none.
            "VIS_PERIOD": 0,
            "OUTPUT_DIR": "./output",
            # Negative: another one each run.
            "SEED": -1,
            "CUDNN_BENCHMARK": False,
        }
    )


def configurable(init_func: Callable) -> Callable:
    """Let a class be called with a configuration instead of with its arguments; decorates its ``__init__``.

    The class has a class method ``from_config(cls, cfg, ...)`` that returns the keyword arguments. A call whose first
    argument (or ``cfg=``) is a CfgNode goes through ``from_config``; arguments that this does not name override or add
    to what it returns. Any other call is passed on as it is.

    Raises:
        TypeError: ``from_config`` is not a class method or does not take ``cfg`` first.
        AttributeError: the class has no ``from_config``.
    """

    @functools.wraps(init_func)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(args[0] if args else kwargs.get("cfg"), _CfgNode):
            kwargs, args = _arguments(type(self).from_config, args, kwargs), ()
        init_func(self, *args, **kwargs)

    return initialise


def _arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if not inspect.ismethod(from_config) or next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must be a class method with cfg as its first argument")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    others = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **others}

"""Checked configuration from a command line; mistakes become one-sentence errors."""

from __future__ import annotations

import ctypes
import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
import yaml

from ..config import add_rc2l_config
from ..config_files import find_config_file
from ..data import register_definitions
from ..errors import InputError, one_line
from ..evaluation import check_test_settings
from ..host import META_ARCH_REGISTRY, CfgNode, build_model, get_cfg
from ..modeling import RegionSegmentor
from ..modeling.backbones import TimmBackbone, preprocessing_of
from ..yaml_files import parse_yaml
from .weights import read_backbone_weights

logger = logging.getLogger(__name__)
# Parameters of mallopt in malloc.h: number of blocks that may be mapped, free bytes that the heap's end may keep.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1

_RANGES = {
    "SEED": (-inf, 2**31 - 1),  # numpy takes SEED + rank below 2**32
    "SOLVER.MAX_ITER": (1, inf),
    "SOLVER.BASE_LR": (0, inf),
    "SOLVER.BACKBONE_MULTIPLIER": (0, inf),
    "SOLVER.POLY_LR_POWER": (0, inf),
    "SOLVER.WEIGHT_DECAY": (0, inf),
    "SOLVER.WEIGHT_DECAY_EMBED": (0, inf),
    "SOLVER.WEIGHT_DECAY_NORM": (0, inf),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.CHECKPOINT_PERIOD": (1, inf),
    "DATALOADER.MAX_BAD_SHARE": (0, 1),
    "SOLVER.CHECKPOINT_KEEP": (0, inf),
    "SOLVER.MAX_BAD_STEPS": (0, inf),
    "SOLVER.IMS_PER_PASS": (0, inf),
    "SOLVER.REFERENCE_IMS_PER_BATCH": (0, inf),
    "VIS_PERIOD": (0, inf),
    "INPUT.MIN_SIZE_TEST": (0, inf),
    "INPUT.MAX_SIZE_TEST": (8, inf),  # not 0, which could be meant as no limit
    "INPUT.MAX_SIZE_TRAIN": (8, inf),
    "TEST.AUG.MAX_SIZE": (8, inf),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (1, 254),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": (1, inf),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": (1, inf),
    "MODEL.SEMI_SUPERVISED.MIN_REGION_AREA": (1, inf),
    "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS": (0, inf),
    "MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS": (0, inf),
    "MODEL.SEMI_SUPERVISED.EMA_DECAY": (0, 1),
    "MODEL.SEMI_SUPERVISED.STRONG_VIEWS": (1, inf),
    "MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT": (0, 0.99),
    "MODEL.MASK_FORMER.CLASS_DROPOUT": (0, 0.99),
    "MODEL.MASK_FORMER.CLASS_MEANS": (0, inf),
    "MODEL.TIMM.DROP_PATH": (0, 0.99),
    "MODEL.TIMM.LAYER_DECAY": (0.01, 1),
    "MODEL.TIMM.FREEZE_STAGES": (-1, inf),
    "MODEL.RC2L.CONFIDENCE_THRESHOLD": (0, 1),
    "MODEL.RC2L.CLASS_THRESHOLD_RATIO": (0, inf),
    "MODEL.RC2L.LOSS_WEIGHT": (0, inf),
    "MODEL.RC2L.RMC_WEIGHT": (0, inf),
    "MODEL.RC2L.RFC_WEIGHT": (0, inf),
    "MODEL.RC2L.RCC_WEIGHT": (0, inf),
    "MODEL.RC2L.SMC_WEIGHT": (0, inf),
    "MODEL.RC2L.MASK_TEMPERATURE": (1e-3, inf),
    "MODEL.RC2L.FEATURE_TEMPERATURE": (1e-3, inf),
    "MODEL.PIXEL.CONFIDENCE_THRESHOLD": (0, 1),
    "MODEL.PIXEL.CLASS_THRESHOLD_RATIO": (0, inf),
    "MODEL.PIXEL.CONSISTENCY_WEIGHT": (0, inf),
    "MODEL.PIXEL.CONTRAST_WEIGHT": (0, inf),
    "MODEL.PIXEL.CONTRAST_TEMPERATURE": (1e-3, inf),
    "MODEL.PIXEL.CONTRAST_SAMPLES": (0, inf),
    "MODEL.UNIMATCH.CONFIDENCE_THRESHOLD": (0, 1),
}
_CHOICES = {
    "SOLVER.OPTIMIZER": ("ADAMW", "SGD"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR",),
    "SOLVER.WARMUP_METHOD": ("linear",),
    "SOLVER.AMP.DTYPE": ("auto", "bfloat16", "float16"),
    "MODEL.RC2L.SELECTION": ("region", "pixel"),
    "MODEL.PIXEL.SELECTION": ("region", "pixel"),
    "MODEL.SEMI_SUPERVISED.MIX": ("cutmix", "classmix", "labeled", "none"),
    "MODEL.MASK_FORMER.MATCHING": ("class", "hungarian"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ("ASPP", "FPN"),
}


def load_config(
    config_file: str = "", overrides: Sequence[str] = (), warn: Callable[[str], object] = logger.warning
) -> CfgNode:
    """Return the frozen configuration: defaults, ``config_file`` with its ``_BASE_``, then ``overrides``.

    A ``configs/...`` file that does not exist is taken from the package. Data sets of DATASETS.DEFINITIONS are
    registered. MODEL.DEVICE becomes "cuda" or "cpu" where nothing sets it; without a GPU it becomes "cpu".

    Args:
        config_file: path of a YAML file; "" for the defaults.
        overrides: KEY VALUE pairs, flat.
        warn: takes a warning of what cannot be as configured.

    Raises:
        InputError: the file is missing or not YAML, a key does not exist, or a value has the wrong type.
    """
    cfg = add_rc2l_config(get_cfg())
    cfg.MODEL.DEVICE = "auto"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = [], [], ""  # until something sets them
    if config_file:
        config_file = find_config_file(config_file)
        if not os.path.isfile(config_file):
            raise InputError(f"The config file {config_file} does not exist; check --config-file.")
        _merge(cfg, lambda: _refuse_repeated_keys(config_file), config_file)
        _merge(cfg, lambda: cfg.merge_from_file(config_file, allow_unsafe=False), config_file)
    if len(overrides) % 2:
        raise InputError(f"The override {overrides[-1]} has no value; give config overrides as KEY VALUE pairs.")
    _merge(cfg, lambda: cfg.merge_from_list(list(overrides)), "the command line")
    cfg.MODEL.DEVICE = _usable_device(cfg.MODEL.DEVICE, warn)
    _complete_preprocessing(cfg)
    check_values(cfg)
    register_definitions(cfg)
    cfg.freeze()
    return cfg


def _usable_device(wanted: str, warn: Callable[[str], object]) -> str:
    """Return the device to use for MODEL.DEVICE: the CPU, with a warning, where there is no GPU."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise InputError(f'MODEL.DEVICE is "{wanted}"; use "cuda", "cpu" or "auto" (a GPU if there is one).')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if gpus else "cpu"
    if wanted == "cpu":
        return wanted
    if not gpus:
        warn(f"MODEL.DEVICE is {wanted}, but torch {torch.__version__} finds no GPU; the CPU is used, which is slow.")
        return "cpu"
    if int(wanted.partition(":")[2] or 0) >= gpus:
        raise InputError(f'MODEL.DEVICE is "{wanted}", but there are {gpus} GPU(s), counted from 0; give one of them.')
    return wanted


def _complete_preprocessing(cfg: CfgNode) -> None:
    """Fill in mean, standard deviation and channel order: those of a backbone of timm, otherwise Detectron2's.

    Raises:
        InputError: with a backbone of timm, something sets one or two of the three.
    """
    keys, default = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"), get_cfg()
    given, defaults = flat_settings(cfg), flat_settings(default)
    unset = [key for key in keys if not given[key]]
    filled = {key: defaults[key] for key in unset}
    if unset and cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        if len(unset) < len(keys):
            raise InputError(
                f"Of {', '.join(keys)} the configuration does not set {' and '.join(unset)}; set all three, or none to "
                f"take those of {cfg.MODEL.TIMM.NAME}."
            )
        mean, deviation = preprocessing_of(cfg.MODEL.TIMM.NAME)
        filled = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": deviation, "INPUT.FORMAT": "RGB"}
    for key, value in filled.items():
        cfg.merge_from_list([key, value])


def keep_freed_memory() -> None:
    """Make the GNU C library keep freed memory for the next step; other C libraries are left as they are.

    Clearing new pages for large feature maps takes as long as the losses (tools/dev/bench/growth.py).
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def load_backbone(cfg: CfgNode, model: RegionSegmentor) -> None:
    """Load the pretrained weights of MODEL.TIMM into a backbone of timm, for a new run.

    Raises:
        InputError: the weights cannot be read or fetched, or do not fit, or random ones (of any backbone) would be
            frozen.
    """
    settings, backbone = cfg.MODEL.TIMM, model.backbone
    if not isinstance(backbone, TimmBackbone):
        frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
        if not cfg.MODEL.WEIGHTS and (frozen or any("FrozenBatchNorm" in type(x).__name__ for x in backbone.modules())):
            raise InputError(
                "The backbone has random weights, of which MODEL.BACKBONE.FREEZE_AT or MODEL.RESNETS.NORM FrozenBN "
                "would keep some; give MODEL.WEIGHTS a file, or set FREEZE_AT 0 and NORM BN."
            )
        return
    if settings.CHECKPOINT:
        model.backbone.load_pretrained(read_backbone_weights(settings.CHECKPOINT), settings.CHECKPOINT)
    elif settings.PRETRAINED:
        model.backbone.load_pretrained()
    elif not cfg.MODEL.WEIGHTS:
        if settings.FREEZE_STAGES:
            raise InputError(
                f"MODEL.TIMM.FREEZE_STAGES is {settings.FREEZE_STAGES}, which would keep the random weights of "
                f"{settings.NAME}; set MODEL.TIMM.PRETRAINED True or MODEL.TIMM.CHECKPOINT to a file of weights, or "
                "FREEZE_STAGES 0."
            )
        logger.warning(
            "The backbone %s starts from random weights; set MODEL.TIMM.PRETRAINED True, or MODEL.TIMM.CHECKPOINT to a "
            "file of weights.", settings.NAME,
        )  # fmt: skip


def check_torchvision_settings(cfg: CfgNode) -> None:
    """Refuse settings that do not fit weights of torchvision, which would then start from wrong features.

    Raises:
        InputError: names the keys and their values.
    """
    model = cfg.MODEL
    scaled = min(model.PIXEL_STD) > 10  # torchvision's is near 58; Detectron2's own weights have a deviation of 1
    if cfg.INPUT.FORMAT != "RGB" or not scaled or model.RESNETS.STRIDE_IN_1X1:
        raise InputError(
            f"MODEL.WEIGHTS {model.WEIGHTS} has torchvision's weights, which these settings do not fit; set "
            "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675,116.28,103.53], MODEL.PIXEL_STD [58.395,57.12,57.375] and "
            "MODEL.RESNETS.STRIDE_IN_1X1 False."
        )


def build_model_or_explain(cfg: CfgNode) -> RegionSegmentor:
    """Call the host's ``build_model``.

    Raises:
        InputError: a value does not fit any model.
    """
    try:
        return build_model(cfg)
    except InputError:
        raise
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"No model can be built from this configuration ({one_line(error)}); check MODEL.*."
        ) from error


def check_values(cfg: CfgNode) -> None:
    """Refuse values that would fail later, or fail silently."""
    name = cfg.MODEL.META_ARCHITECTURE
    # Detectron2's registry also has other architectures.
    if name not in META_ARCH_REGISTRY or not hasattr(META_ARCH_REGISTRY.get(name), "uses_unlabeled"):
        raise InputError(
            f'MODEL.META_ARCHITECTURE is "{name}", which this project does not have; use "RC2L", "RegionSegmentor", '
            '"PerPixelSegmentor", "PixelConsistency", "PixelContrast" or "UniMatch" (most files for --config-file set '
            "it)."
        )
    settings = flat_settings(cfg)
    for key, (low, high) in _RANGES.items():
        value = settings[key]
        if value is None or not low <= value <= high:
            raise InputError(f"{key} is {value}; give a value from {low:.10g} to {high:.10g}.")
    for key, choices in _CHOICES.items():
        value = settings[key]
        if value not in choices:
            *others, last = [f'"{choice}"' for choice in choices]
            listed = f"{', '.join(others)} or {last}" if others else last
            raise InputError(f'{key} is "{value}"; use {listed}.')
    mean, deviation = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    numbers = all(isinstance(x, (int, float)) for x in (*mean, *deviation))
    if not numbers or len(mean) != len(deviation) or min(deviation) <= 0:
        raise InputError(
            f"MODEL.PIXEL_STD is {deviation}; give a number above 0 for each of the {len(mean)} of MODEL.PIXEL_MEAN."
        )
    head = cfg.MODEL.SEM_SEG_HEAD
    if not head.NUM_CLASSES <= head.IGNORE_VALUE <= 255:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}; give a value from {head.NUM_CLASSES}, the number "
            "of classes, to 255."
        )
    for key, default in flat_settings(add_rc2l_config(get_cfg())).items():
        if wrong := _wrong_element(key, settings[key], default):
            given, form = list(settings[key]), default or '("name",)'
            raise InputError(f"{key} is {given}, in which {wrong} has the wrong type; write it as {form}.")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise InputError(f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{clip.CLIP_TYPE}"; use "full_model".')
    if clip.ENABLED and not clip.CLIP_VALUE > 0:
        raise InputError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}; give a number above 0.")
    check_test_settings(cfg)


def _wrong_element(key: str, value: Any, default: Any) -> str:
    """Return the first element of a list with another type than those of the default (numbers or text); "" without."""
    if not isinstance(value, (list, tuple)) or not isinstance(default, (list, tuple)):
        return ""
    kinds, numbers = {type(element) for element in default}, {int, float}
    if not default and key.startswith("DATASETS."):  # of names and files
        kinds = {str}
    if kinds and kinds <= numbers:
        kinds = numbers
    elif kinds != {str}:
        return ""
    return next((repr(element) for element in value if type(element) not in kinds), "")


def _merge(cfg: CfgNode, merge: Callable[[], None], source: str) -> None:
    """Call ``merge``; errors of the config system become an InputError that names ``source``."""
    problem = f"The configuration in {source} cannot be used:"
    try:
        merge()
    except (KeyError, AssertionError) as error:
        key = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", str(error))
        if key is None:
            raise InputError(f"{problem} {one_line(error, 5000)}.") from error
        close = difflib.get_close_matches(key[1], flat_settings(cfg), n=1)
        advice = f"did you mean {close[0]}?" if close else "see rc2l_d2/config.py for the keys."
        raise InputError(f"{key[1]} in {source} is not a config key; {advice}") from error
    except (ValueError, yaml.YAMLError, FileNotFoundError) as error:
        advice = '; give a value of the first type (one data set is written ("name",))'
        raise InputError(f"{problem} {one_line(error, 5000)}{advice if 'mismatch' in str(error) else ''}.") from error
    except (TypeError, AttributeError, RecursionError) as error:
        # Raised for a file that is empty or a list, and for a _BASE_ that is not a name or refers to itself.
        raise InputError(f"{problem} it must hold keys and values, and in _BASE_ another file.") from error


def _refuse_repeated_keys(file: str) -> None:
    """Raise a YAMLError if a key is there twice in ``file`` or a _BASE_ of it, of which the last would be used."""
    with open(file, encoding="utf-8") as text:
        base = parse_yaml(text.read()).get("_BASE_", [])
    for name in [base] if isinstance(base, str) else base:
        path = os.path.join(os.path.dirname(file), os.path.expanduser(name))
        if os.path.isfile(path):  # Merging finds all others.
            _refuse_repeated_keys(path)


def plain_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings as a file of them gives them back: "SOLVER.MAX_ITER" -> value, lists instead of tuples."""
    return json.loads(json.dumps(flat_settings(cfg)))


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary: "SOLVER.MAX_ITER" -> value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

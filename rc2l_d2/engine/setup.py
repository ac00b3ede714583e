"""From a command line's words to a checked configuration; mistakes become one sentence."""

from __future__ import annotations

import ctypes
import difflib
import math
import os
import re
from collections.abc import Sequence

import torch
import yaml
from torch import nn

from ..config import add_rc2l_config
from ..config_files import find_config_file
from ..data import register_definitions
from ..errors import InputError
from ..evaluation import check_test_settings
from ..host import META_ARCH_REGISTRY, CfgNode, build_model, get_cfg

# Of malloc.h: how many blocks may be mapped by themselves, and how much may lie free at the heap's end.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """The frozen configuration: defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE ...`` overrides.

    A ``configs/...`` that is not there is looked for among those that come with the package. Data sets described by
    DATASETS.DEFINITIONS are registered. Without a GPU, MODEL.DEVICE becomes "cpu".

    Raises:
        InputError: the file is missing or not YAML, a key does not exist, or a value has the wrong type.
    """
    cfg = add_rc2l_config(get_cfg())
    if config_file:
        config_file = find_config_file(config_file)
        if not os.path.isfile(config_file):
            raise InputError(f"The config file {config_file} does not exist; check --config-file.")
        _merge(cfg, lambda: cfg.merge_from_file(config_file, allow_unsafe=False), config_file)
    if len(overrides) % 2:
        raise InputError(f"The override {overrides[-1]} has no value; give config overrides as KEY VALUE pairs.")
    _merge(cfg, lambda: cfg.merge_from_list(list(overrides)), "the command line")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _check_values(cfg)
    register_definitions(cfg)
    cfg.freeze()
    return cfg


def keep_freed_memory() -> None:
    """Have the process keep the memory that tensors on the CPU give back, for the next step's.

    The GNU C library returns each block of more than 32 MB to the kernel at once, and at large feature maps the kernel
    then spends as long clearing pages anew as the losses take (tools/dev/bench/growth.py). Other C libraries stay as
    they are. Resident memory stays at its peak.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def build_model_or_explain(cfg: CfgNode) -> nn.Module:
    """The host's ``build_model``; what it says of a value that no model can have becomes an InputError."""
    try:
        return build_model(cfg)
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError, ZeroDivisionError) as error:
        reason = _one_line(error) or type(error).__name__
        raise InputError(f"No model can be built from this configuration ({reason}); check MODEL.*.") from error


def _check_values(cfg: CfgNode) -> None:
    """Refuse values that would fail later, or worse, not fail."""
    name = cfg.MODEL.META_ARCHITECTURE
    # Detectron2's registry knows architectures that are not ours.
    if name not in META_ARCH_REGISTRY or not hasattr(META_ARCH_REGISTRY.get(name), "uses_unlabeled"):
        raise InputError(
            f'MODEL.META_ARCHITECTURE is "{name}", which is not one of this project; say "RC2L", "RegionSegmentor", '
            '"PixelConsistency" or "PixelContrast" (a file for --config-file usually does).'
        )
    ranges = {
        "SOLVER.MAX_ITER": (cfg.SOLVER.MAX_ITER, 1, math.inf),
        "SOLVER.CHECKPOINT_PERIOD": (cfg.SOLVER.CHECKPOINT_PERIOD, 1, math.inf),
        "DATALOADER.MAX_BAD_SHARE": (cfg.DATALOADER.MAX_BAD_SHARE, 0, 1),
        "SOLVER.CHECKPOINT_KEEP": (cfg.SOLVER.CHECKPOINT_KEEP, 0, math.inf),
        "SOLVER.MAX_BAD_STEPS": (cfg.SOLVER.MAX_BAD_STEPS, 0, math.inf),
        "SOLVER.IMS_PER_PASS": (cfg.SOLVER.IMS_PER_PASS, 0, math.inf),
        "SOLVER.REFERENCE_IMS_PER_BATCH": (cfg.SOLVER.REFERENCE_IMS_PER_BATCH, 0, math.inf),
        "VIS_PERIOD": (cfg.VIS_PERIOD, 0, math.inf),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1, 254),
        "MODEL.SEMI_SUPERVISED.EMA_DECAY": (cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY, 0, 1),
        "MODEL.RC2L.MASK_TEMPERATURE": (cfg.MODEL.RC2L.MASK_TEMPERATURE, 1e-3, math.inf),
        "MODEL.RC2L.FEATURE_TEMPERATURE": (cfg.MODEL.RC2L.FEATURE_TEMPERATURE, 1e-3, math.inf),
        "MODEL.PIXEL.CONTRAST_TEMPERATURE": (cfg.MODEL.PIXEL.CONTRAST_TEMPERATURE, 1e-3, math.inf),
        "MODEL.PIXEL.CONTRAST_SAMPLES": (cfg.MODEL.PIXEL.CONTRAST_SAMPLES, 0, math.inf),
    }
    for key, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InputError(f"{key} is {value}; give a value from {low:g} to {high:g}.")
    choices = {
        "MODEL.RC2L.SELECTION": (cfg.MODEL.RC2L.SELECTION, ("region", "pixel")),
        "MODEL.PIXEL.SELECTION": (cfg.MODEL.PIXEL.SELECTION, ("region", "pixel")),
        "MODEL.SEMI_SUPERVISED.MIX": (cfg.MODEL.SEMI_SUPERVISED.MIX, ("cutmix", "classmix", "none")),
        "MODEL.RC2L.MATCHING": (cfg.MODEL.RC2L.MATCHING, ("class", "hungarian")),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            quoted = [f'"{choice}"' for choice in known]
            raise InputError(f'{key} is "{value}"; say {", ".join(quoted[:-1])} or {quoted[-1]}.')
    check_test_settings(cfg)


def _merge(cfg: CfgNode, merge, source: str) -> None:
    """Run ``merge``; what the config system says of a wrong key or value becomes an InputError naming ``source``."""
    try:
        merge()
    except (KeyError, AssertionError) as error:
        key = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", str(error))
        if key is None:
            raise InputError(f"The configuration in {source} cannot be used: {_one_line(error)}.") from error
        close = difflib.get_close_matches(key[1], _keys(cfg), n=1)
        advice = f"did you mean {close[0]}?" if close else "see rc2l_d2/config.py for the keys."
        raise InputError(f"{key[1]} in {source} is not a config key; {advice}") from error
    except (ValueError, yaml.YAMLError, FileNotFoundError) as error:
        advice = '; give a value of the first type (one data set is written ("name",))'
        advice = advice if "mismatch" in str(error) else ""
        raise InputError(f"The configuration in {source} cannot be used: {_one_line(error)}{advice}.") from error
    except (TypeError, AttributeError, RecursionError) as error:
        # What Detectron2 makes of a file that is empty or a list, and of bases that are no names or go in a circle.
        raise InputError(
            f"The configuration in {source} cannot be used: it must hold keys and values, and in _BASE_ another file."
        ) from error


def _one_line(error: Exception) -> str:
    # str() of a KeyError is in quotes; that of a YAML error is all of it, its first argument often None.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()).rstrip(".")


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys += _keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]
    return keys

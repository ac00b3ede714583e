"""From a command line's words to a checked configuration; mistakes become one sentence."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence

import torch
import yaml

from ..config import add_rc2l_config
from ..data import register_definitions
from ..errors import InputError
from ..host import META_ARCH_REGISTRY, CfgNode, get_cfg


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """The frozen configuration: defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE ...`` overrides.

    Data sets described by DATASETS.DEFINITIONS are registered. Without a GPU, MODEL.DEVICE becomes "cpu".

    Raises:
        InputError: the file is missing or not YAML, a key does not exist, or a value has the wrong type.
    """
    cfg = add_rc2l_config(get_cfg())
    if config_file:
        if not os.path.isfile(config_file):
            raise InputError(f"The config file {config_file} does not exist; check --config-file.")
        _merge(cfg, lambda: cfg.merge_from_file(config_file, allow_unsafe=False), config_file)
    if len(overrides) % 2:
        raise InputError(f"The override {overrides[-1]} has no value; give config overrides as KEY VALUE pairs.")
    _merge(cfg, lambda: cfg.merge_from_list(list(overrides)), "the command line")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        raise InputError(
            f'MODEL.META_ARCHITECTURE is "{cfg.MODEL.META_ARCHITECTURE}", which is not known; say "RC2L" or '
            '"RegionSegmentor".'
        )
    register_definitions(cfg)
    cfg.freeze()
    return cfg


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
        raise InputError(f"The configuration in {source} cannot be used: {_one_line(error)}.") from error
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

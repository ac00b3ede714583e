"""A self-contained file for prediction: weights, classes, colours and configuration."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..config import add_rc2l_config
from ..config_files import find_model_file, model_names
from ..data import BandRule, LabelFiles, dataset_bands
from ..errors import InputError, one_line
from ..evaluation import class_colors
from ..host import CfgNode, MetadataCatalog, build_model, get_cfg
from .weights import read_file, require_finite
from .whole_files import write_checkpoint

# Files and folders of the machine that trained; prediction needs none of them.
_PATHS = (
    "OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.TIMM.CHECKPOINT", "DATASETS.DEFINITIONS", "DATASETS.LABELED_LIST",
    "DATASETS.UNLABELED_LIST",
)  # fmt: skip
_KEYS = {"model", "config", "classes", "palette", "ignore_value", "iteration", "version"}


def write_model_file(path: str, cfg: CfgNode, model: nn.Module, iteration: int, **rest: Any) -> None:
    """Write ``model`` (not wrapped) with all that prediction needs, atomically.

    The file can be read with ``torch.load(..., weights_only=True)``: "model", weights by name; "config", YAML
    without paths;
    "classes", names, of the first training data set; "palette", one (r, g, b) per class; "ignore_value";
    "label_files", how label files are named and encoded (optional); "bands", how images that are not plain 8-bit colour
    are read (optional); "iteration", the number of trained iterations; "version"; and the contents of a checkpoint that
    ``rest`` names.

    Raises:
        InputError: the file cannot be written.
    """
    metadata, bands = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]), dataset_bands(cfg.DATASETS.TRAIN[0])
    content = {
        "model": model.state_dict(),
        "config": without_paths(cfg).dump(),
        "classes": list(metadata.stuff_classes),
        "palette": class_colors(cfg.DATASETS.TRAIN[0]).tolist(),
        "ignore_value": metadata.ignore_label,
        "label_files": asdict(metadata.get("label_files", LabelFiles())),
        "bands": bands and asdict(bands),
        "iteration": iteration,
        "version": __version__,
        **rest,
    }
    write_checkpoint(content, path)


def without_paths(cfg: CfgNode) -> CfgNode:
    """Return a copy of ``cfg`` with the defaults of all keys in _PATHS."""
    copied, default = cfg.clone(), add_rc2l_config(get_cfg())
    copied.defrost()
    for key in _PATHS:
        copied.merge_from_list([key, reduce(getattr, key.split("."), default)])
    return copied


def _rename_keys(stored: CfgNode, cfg: CfgNode) -> None:
    """Give the keys of an older configuration their names in ``cfg``."""
    for old, new in cfg.__dict__[CfgNode.RENAMED_KEYS].items():
        *path, name = old.split(".")
        parent = reduce(lambda node, key: node.get(key, {}), path, stored)
        if name in parent:
            *path, new_name = new.split(".")
            reduce(lambda node, key: node.setdefault(key, CfgNode()), path, stored)[new_name] = parent.pop(name)


def is_model_file(content: Any) -> bool:
    """Return whether ``content`` of a file is that of a model file."""
    return isinstance(content, dict) and content.keys() >= _KEYS


def find_known_file(path: str) -> str:
    """Return ``path``, or the file of the model with this name.

    Raises:
        InputError: it is neither a file nor the name of a model.
    """
    found = find_model_file(path)
    if not os.path.isfile(found) and Path(found).name == found and not Path(found).suffix:
        raise InputError(f"There is no file and no model '{path}'; known models: {', '.join(model_names()) or 'none'}.")
    return found


def load_model_file(path: str) -> tuple[nn.Module, CfgNode, Any]:
    """Return the model (eval mode, on a GPU if available), its configuration, and its classes as metadata.

    Args:
        path: a file, or the name of a model that comes with the package.

    Raises:
        InputError: :func:`write_model_file` did not write the file, or another version did and it does not fit.
    """
    path = find_known_file(path)
    content = read_file(path)
    if not is_model_file(content):
        raise InputError(
            f"{path} is not a model file; give a teacher_final.pth, or a checkpoint with its --config-file."
        )
    cfg = add_rc2l_config(get_cfg())
    try:
        cfg.set_new_allowed(True)  # Detectron2 has more keys than the embedded host.
        stored = CfgNode.load_cfg(content["config"])
        _rename_keys(stored, cfg)
        cfg.merge_from_other_cfg(stored)
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
        cfg.MODEL.TIMM.GRAD_CHECKPOINTING = False
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.freeze()
        model = build_model(cfg).eval()
        model.load_state_dict(content["model"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, AssertionError, ValueError, RuntimeError) as error:
        # Of torch's list of all differences the last one says enough, and others may be their consequences.
        last = str(error).strip().rpartition("\n")[2].strip() if isinstance(error, RuntimeError) else ""
        reason = last or one_line(error)
        raise InputError(
            f"{path} was written by version {content['version']} and does not fit this one ({reason.rstrip('.')}); use "
            "the version or commit that wrote it, or train again."
        ) from error
    require_finite(content["model"], path)
    if not len(content["palette"]) >= len(content["classes"]) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise InputError(f"{path} names other classes than its weights have; use the file as training wrote it.")
    bands = content.get("bands")
    name = f"classes of {path}"
    MetadataCatalog.pop(name, None)  # of an earlier file with this path
    metadata = MetadataCatalog.get(name).set(
        stuff_classes=content["classes"],
        stuff_colors=content["palette"],
        ignore_label=content["ignore_value"],
        label_files=LabelFiles.from_plain(content.get("label_files", asdict(LabelFiles()))),
        bands=bands and BandRule(**bands),
    )
    return model, cfg, metadata

"""One small file that is all that prediction needs: weights, classes, colours and configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .. import __version__
from ..config import add_rc2l_config
from ..data import LabelFiles
from ..errors import InputError
from ..evaluation import class_colors
from ..host import CfgNode, MetadataCatalog, build_model, get_cfg
from .weights import read_file
from .whole_files import write_checkpoint

_KEYS = {"model", "config", "classes", "palette", "ignore_value", "iteration", "version"}


def write_model_file(path: str, cfg: CfgNode, model: nn.Module, iteration: int) -> None:
    """Write ``model`` with what it takes to build it and to name and draw its classes; whole or not at all.

    Args:
        path: of the file, which ``torch.load(..., weights_only=True)`` reads: "model", the weights by name; "config",
            YAML; "classes", names; "palette", one (r, g, b) a class; "ignore_value"; "label_files", how the data set's
            labels are called and what is in them (absent: as their images, class numbers); "iteration"; "version".
        cfg: the configuration of the run; its first training data set has the classes.
        model: not wrapped for distributed training.
        iteration: how many were trained.

    Raises:
        InputError: it cannot be written.
    """
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    classes = list(metadata.stuff_classes)
    described = {
        "model": model.state_dict(),
        "config": cfg.dump(),
        "classes": classes,
        "palette": class_colors(cfg.DATASETS.TRAIN[0]).tolist(),
        "ignore_value": metadata.ignore_label,
        "label_files": metadata.get("label_files", LabelFiles()).plain(),
        "iteration": iteration,
        "version": __version__,
    }
    write_checkpoint(described, path)


def load_model_file(path: str) -> tuple[nn.Module, CfgNode, Any]:
    """The model in eval mode on a GPU where there is one, its configuration, and its classes as a data set's metadata.

    Raises:
        InputError: the file is none that :func:`write_model_file` wrote, or another version's that does not fit.
    """
    described = read_file(path)
    if not isinstance(described, dict) or not described.keys() >= _KEYS:
        raise InputError(
            f"{path} does not describe itself; give a teacher_final.pth, or a checkpoint with its --config-file."
        )
    cfg = add_rc2l_config(get_cfg())
    try:
        cfg.merge_from_other_cfg(_known(CfgNode.load_cfg(described["config"]), cfg))
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.freeze()
        model = build_model(cfg).eval()
        model.load_state_dict(described["model"])
    except (KeyError, AssertionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"{path} was written by version {described['version']} and does not fit this one ({reason}); use that one."
        ) from error
    name = f"classes of {path}"
    MetadataCatalog.pop(name, None)  # of a file that was there before
    metadata = MetadataCatalog.get(name).set(
        stuff_classes=described["classes"],
        stuff_colors=described["palette"],
        ignore_label=described["ignore_value"],
        label_files=LabelFiles.from_plain(described.get("label_files", LabelFiles().plain())),
    )
    return model, cfg, metadata


def _known(cfg: CfgNode, default: CfgNode) -> CfgNode:
    """``cfg`` without what this host has no key for: Detectron2's configuration is larger than the embedded host's."""
    return CfgNode({
        key: _known(value, default[key]) if isinstance(value, CfgNode) else value
        for key, value in cfg.items() if key in default
    })  # fmt: skip

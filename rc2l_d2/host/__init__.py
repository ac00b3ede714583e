"""The one door to Detectron2: the rest of this package imports framework names from here and from nowhere else.

With Detectron2 installed the names are its own; elsewhere they come from ``embedded``, a small implementation on
fvcore, iopath and torch. The environment variable RC2L_HOST, "detectron2" or "embedded", forces one of them.

Attributes:
    HOST: "detectron2" or "embedded".
    HOST_REASON: one sentence on why.
    HOST_EVALUATOR: the host's evaluator of semantic segmentation, a class, or None where the host has none: the metrics
        are ours on both hosts, and its results are reported beside them.
"""
# The names are put here at run time, where a checker that only reads can't see them.
# ruff: noqa: F822

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "CfgNode",
    "Conv2d",
    "DatasetCatalog",
    "DefaultTrainer",
    "DetectionCheckpointer",
    "EventStorage",
    "HOST",
    "HOST_EVALUATOR",
    "HOST_REASON",
    "HookBase",
    "ImageList",
    "JSONWriter",
    "META_ARCH_REGISTRY",
    "MetadataCatalog",
    "SEM_SEG_HEADS_REGISTRY",
    "ShapeSpec",
    "SimpleTrainer",
    "TensorboardXWriter",
    "Visualizer",
    "build_backbone",
    "build_model",
    "build_sem_seg_head",
    "comm",
    "configurable",
    "default_argument_parser",
    "default_setup",
    "get_cfg",
    "get_event_storage",
    "get_norm",
    "hooks",
    "inference_on_dataset",
    "launch",
    "print_csv_format",
    "setup_logger",
]


def _choose() -> tuple[str, str, ModuleType]:
    """Name of the host, the reason for it, and the module that holds its names.

    Raises:
        ImportError: RC2L_HOST is neither of the two, or asks for a Detectron2 that can't be imported.
    """
    wanted = os.environ.get("RC2L_HOST", "")
    if wanted not in ("", "embedded", "detectron2"):
        raise ImportError(f'RC2L_HOST is "{wanted}": set it to "embedded" or "detectron2", or leave it unset')
    if wanted == "embedded":
        return "embedded", "RC2L_HOST asks for it", importlib.import_module(".embedded", __name__)
    if importlib.util.find_spec("detectron2") is None:
        problem, cause = "Detectron2 is not installed", None
    else:
        try:
            module = importlib.import_module(".detectron2", __name__)
            reason = "RC2L_HOST asks for it" if wanted else "Detectron2 is installed and can be imported"
            return "detectron2", reason, module
        except Exception as error:  # a build that does not fit its torch or torchvision raises anything but ImportError
            message = (str(error).strip() or "no message").splitlines()[0]
            problem, cause = f"Detectron2 is there but can't be imported ({type(error).__name__}: {message})", error
    if wanted:
        raise ImportError(f"RC2L_HOST is detectron2, but {problem}: install it, or unset RC2L_HOST") from cause
    return "embedded", problem, importlib.import_module(".embedded", __name__)


with warnings.catch_warnings():
    # Both hosts stand on fvcore, which scripts a few functions when it is imported. That is nothing to a user, and from
    # torch 2.15 on it would stand above every one-sentence error.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    HOST, HOST_REASON, _module = _choose()
globals().update({name: getattr(_module, name) for name in __all__ if name not in ("HOST", "HOST_REASON")})

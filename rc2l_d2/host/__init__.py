"""The Detectron2 compatibility layer: all framework names that this package uses (``__all__``).

They are Detectron2's if it is installed. Otherwise they come from ``embedded``, a small implementation on fvcore,
iopath and torch. The environment variable RC2L_HOST, "detectron2" or "embedded", forces one of them.

Attributes:
    HOST: "detectron2" or "embedded".
    HOST_REASON: the reason for the choice, one sentence.
    HOST_EVALUATOR: Detectron2's evaluator class of semantic segmentation, or None on the embedded host. Its results are
        reported beside this project's own metrics.
"""
# The names are set at run time, which static checkers can't see.
# ruff: noqa: F822

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

__all__ = [
    "HOST", "HOST_EVALUATOR", "HOST_REASON",
    "CfgNode", "configurable", "default_argument_parser", "default_setup", "get_cfg", "setup_logger",
    "DatasetCatalog", "MetadataCatalog", "Visualizer", "inference_on_dataset", "print_csv_format",
    "BACKBONE_REGISTRY", "META_ARCH_REGISTRY", "SEM_SEG_HEADS_REGISTRY",
    "Backbone", "build_backbone", "build_model", "build_sem_seg_head",
    "Conv2d", "ImageList", "ShapeSpec", "get_norm",
    "DefaultTrainer", "DetectionCheckpointer", "HookBase", "SimpleTrainer", "comm", "hooks", "launch",
    "EventStorage", "JSONWriter", "TensorboardXWriter", "get_event_storage",
]  # fmt: skip


def _choose() -> tuple[str, str, ModuleType]:
    """Return the host's name, the reason for the choice, and the module that holds the names.

    Raises:
        ImportError: RC2L_HOST has another value, or requires a Detectron2 that can't be imported.
    """
    wanted = os.environ.get("RC2L_HOST", "")
    if wanted not in ("", "embedded", "detectron2"):
        raise ImportError(f'RC2L_HOST is "{wanted}": set it to "embedded" or "detectron2", or leave it unset')
    if wanted == "embedded":
        return "embedded", "set by RC2L_HOST", importlib.import_module(".embedded", __name__)
    if importlib.util.find_spec("detectron2") is None:
        problem, cause = "Detectron2 is not installed", None
    else:
        try:
            module = importlib.import_module(".detectron2", __name__)
            return "detectron2", "set by RC2L_HOST" if wanted else "Detectron2 is installed", module
        except Exception as error:  # a build that does not fit its torch or torchvision raises any exception
            message = (str(error).strip() or "no message").splitlines()[0]
            problem, cause = f"Detectron2 is installed but can't be imported ({type(error).__name__}: {message})", error
    if wanted:
        raise ImportError(f"RC2L_HOST is detectron2, but {problem}: install it, or unset RC2L_HOST") from cause
    return "embedded", problem, importlib.import_module(".embedded", __name__)


with warnings.catch_warnings():
    # fvcore scripts a few functions at import. From torch 2.15 on that warns.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    HOST, HOST_REASON, _module = _choose()
globals().update({name: getattr(_module, name) for name in __all__ if name not in ("HOST", "HOST_REASON")})

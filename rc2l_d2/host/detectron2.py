"""The names of the compatibility layer, imported from Detectron2.

All imports here are absolute, so ``detectron2`` is the installed package and not this module.

Differences from the embedded host, with the file that handles them:

- ``CfgNode.merge_from_file`` uses an unsafe YAML loader unless ``allow_unsafe=False`` (``engine/setup.py``).
- ``get_cfg`` holds many more keys (detection). Files that set these load only here.
- ``DetectionCheckpointer`` unpickles its files, matches names only if a file requests it, and refuses every load after
  one that failed (``engine/checkpoint.py``).
- ``DefaultTrainer`` wraps the model with ``device_ids``, which fails on CPU, and its AMP needs CUDA
  (``engine/trainer.py``, ``engine/step.py``).
- A non-finite loss is raised on rank 0 only (``engine/step_log.py``).
- ``comm.get_local_rank`` works only below ``launch`` or after ``comm.create_local_process_group``.
- ``build_backbone`` requires a ``detectron2.modeling.Backbone``. Detectron2 registers no function for its Swin, ViT and
  RegNet, and the first two import timm.

Observed at Detectron2's head of 2026. Its release v0.6 fails to import with Pillow 10 (the embedded host is used then);
its ``launch`` needs GPUs, and its mIoU also divides by classes that are predicted but absent.
"""

# ruff: noqa: F401

from __future__ import annotations

# Detectron2 without its compiled extension still imports and fails at the first use. This line makes it fail here.
import detectron2._C
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    hooks,
    launch,
)
from detectron2.evaluation import SemSegEvaluator as HOST_EVALUATOR
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from detectron2.structures import ImageList
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter, get_event_storage
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer

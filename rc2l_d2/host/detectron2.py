"""The names of the door, taken from Detectron2.

This module has the name of the package that it imports from: every import here is absolute, so ``detectron2`` means the
package as long as this folder itself is not on the path (nothing puts it there).

What a caller has to know, since the embedded host is kinder in each of these, and where it is dealt with:

- ``CfgNode.merge_from_file`` reads with an unsafe YAML loader unless it is told ``allow_unsafe=False``, an argument
  that both hosts take; of files that are empty or lists it says TypeError and AttributeError (``engine/setup.py``).
- ``get_cfg`` holds many more keys (detection); a key that only those files set exists here alone.
- An unknown key raises KeyError from a file and AssertionError from the command line, on both hosts.
- ``DetectionCheckpointer`` unpickles what it loads, matches names only where a file asks for it, and refuses every load
  after one that failed (``engine/checkpoint.py``).
- ``DefaultTrainer`` wraps the model with ``device_ids``, which fails on CPU, and its AMP needs CUDA
  (``engine/trainer.py``, ``engine/train_loop.py``).
- A loss that is not finite is raised on the first process alone (``engine/step_log.py``).
- ``get_norm("SyncBN", n)`` is torch's own, which refuses CPU tensors when there is more than one process.
- ``comm.get_local_rank`` and ``launch`` belong together: the first asserts that the second has started the processes.
- ``build_backbone`` asserts that the result is a ``detectron2.modeling.Backbone``, so a backbone registered from
  elsewhere must be one. Detectron2 registers no function for its Swin, ViT and RegNet, and the first two import timm.

All this was seen at the head of 2026. The release v0.6 of 2021 has every name, but it does not import beside Pillow 10
(the door then says so and takes the embedded host); its ``launch`` needs GPUs, its trainer gathers losses every step,
and its mIoU also divides by classes that are predicted but absent.
"""

# ruff: noqa: F401

from __future__ import annotations

# Detectron2 imports without its compiled part (it puts dummies in its place, which fail on their first use), so a
# checkout that was never built would pass for an installation. This line makes that an ImportError here.
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

"""The names of the door on fvcore, iopath and torch alone, for where Detectron2 is not to be had.

The door (``rc2l_d2.host``) says which of them make up its contract; here they are only gathered.
"""

# ruff: noqa: F401

from __future__ import annotations

from . import comm, hooks, resnet  # resnet: for the backbones that it registers
from .catalog import DatasetCatalog, MetadataCatalog
from .checkpoint import DetectionCheckpointer
from .config import CfgNode, configurable, get_cfg
from .engine import DefaultTrainer, default_argument_parser, default_setup
from .evaluation import inference_on_dataset, print_csv_format
from .events import EventStorage, JSONWriter, TensorboardXWriter, get_event_storage
from .image_list import ImageList
from .launch import launch
from .layers import Conv2d, ShapeSpec, get_norm
from .logger import setup_logger
from .registry import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from .train_loop import HookBase, SimpleTrainer
from .visualizer import Visualizer

# No evaluator of its own: the metrics are the add-on's.
HOST_EVALUATOR = None

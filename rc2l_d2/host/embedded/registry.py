"""Registries of models, backbones and heads, and functions that build them; KeyError if a name is not registered."""

from __future__ import annotations

import torch
from fvcore.common.registry import Registry
from torch import nn

from .config import CfgNode
from .layers import ShapeSpec

META_ARCH_REGISTRY = Registry("META_ARCH")  # called with (cfg)
BACKBONE_REGISTRY = Registry("BACKBONE")  # called with (cfg, input_shape); return a dict of feature maps
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")  # called with (cfg, the backbone's output_shape())


class Backbone(nn.Module):
    """Base class of backbones, which return feature maps by name and have ``output_shape()``.

    Attributes:
        size_divisibility: divisor of image height and width; 0: any size.
    """

    size_divisibility = 0


def build_model(cfg: CfgNode) -> nn.Module:
    """Return the model ``cfg.MODEL.META_ARCHITECTURE`` with random weights on ``cfg.MODEL.DEVICE``."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))


def build_backbone(cfg: CfgNode) -> nn.Module:
    """Return the backbone ``cfg.MODEL.BACKBONE.NAME`` for images with as many channels as PIXEL_MEAN."""
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Return the head ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for feature maps of the given shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)

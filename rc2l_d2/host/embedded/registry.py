"""Where models, backbones and heads are found by the names that a configuration gives."""

from __future__ import annotations

import torch
from fvcore.common.registry import Registry
from torch import nn

from .config import CfgNode
from .layers import ShapeSpec

META_ARCH_REGISTRY = Registry("META_ARCH")
"""Whole models: called with ``(cfg)``."""
BACKBONE_REGISTRY = Registry("BACKBONE")
"""Backbones: called with ``(cfg, input_shape)``; have ``output_shape()`` and return a dict of feature maps."""
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
"""Heads: called with ``(cfg, input_shape)``, the backbone's ``output_shape()``."""


class Backbone(nn.Module):
    """Base class of backbones: feature maps by name, and their shapes.

    Attributes:
        size_divisibility: divisor of image height and width; 0: any size.
    """

    size_divisibility = 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each map by name."""
        raise NotImplementedError


# Each of the following raises KeyError where nothing of the configured name is registered.


def build_model(cfg: CfgNode) -> nn.Module:
    """The model ``cfg.MODEL.META_ARCHITECTURE``, on ``cfg.MODEL.DEVICE``, without any weights loaded."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> nn.Module:
    """The backbone ``cfg.MODEL.BACKBONE.NAME``; it takes images of as many channels as PIXEL_MEAN has by default."""
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The head ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for feature maps of the given shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)

"""Backbones beside Detectron2's own; importing this registers them."""

from .timm_backbone import TimmBackbone, build_timm_backbone, cached_weights, preprocessing_of

__all__ = ["TimmBackbone", "build_timm_backbone", "cached_weights", "preprocessing_of"]

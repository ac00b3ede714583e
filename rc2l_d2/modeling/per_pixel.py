"""A per-pixel classifier in the pipeline of the region predictor, trained on labels only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import META_ARCH_REGISTRY, CfgNode, Conv2d, ShapeSpec, configurable
from ..regions import Regions, batch_mean
from .aspp_decoder import ASPPDecoder
from .criterion import Criterion
from .meta_arch import RegionSegmentor, resized

# Class logit of query k for class k: its class is certain.
_CERTAIN = 20.0


class PerPixelHead(nn.Module):
    """A pixel decoder and a linear classifier of its features.

    It returns :class:`Regions` with one region for each class, whose class is certain and whose mask logits are the
    class logits of the pixels, so that training and evaluation treat it as any region predictor.
    """

    @configurable
    def __init__(self, *, pixel_decoder: ASPPDecoder, num_classes: int):
        """
        Args:
            pixel_decoder: computes per-pixel features from the backbone maps.
            num_classes: K.
        """
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = Conv2d(pixel_decoder.out_channels, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return {"pixel_decoder": ASPPDecoder(cfg, input_shape), "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}

    def forward(self, features: dict[str, Tensor], supervised: int | None = None) -> Regions:
        """Predict regions from named backbone maps; there are no auxiliary layers."""
        pixel_features = self.pixel_decoder(features)
        logits = self.predictor(pixel_features)
        certain = _CERTAIN * torch.eye(self.num_classes, self.num_classes + 1, dtype=logits.dtype, device=logits.device)
        return Regions(certain.expand(len(logits), -1, -1), logits, pixel_features)


class PixelCriterion(Criterion):
    """Cross-entropy of the pixels with a label, mean over those of all ranks."""

    loss_weights = {"loss_sem_seg": 1.0}

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        valid = self.valid(labels)
        logits = resized(regions.mask_logits, labels.shape[-2:])
        loss = F.cross_entropy(logits, labels.long().masked_fill(~valid, 0), reduction="none")
        return {"loss_sem_seg": batch_mean((loss * valid).sum(), valid.sum())}


@META_ARCH_REGISTRY.register()
class PerPixelSegmentor(RegionSegmentor):
    """Backbone and :class:`PerPixelHead`: DeepLabV3+ as the yardstick. MODEL.SEM_SEG_HEAD.NAME is not read."""

    per_pixel = True

    @classmethod
    def build_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
        return PerPixelHead(cfg, input_shape)

    @classmethod
    def build_criterion(cls, cfg: CfgNode) -> Criterion:
        return PixelCriterion(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)

    def semantic_map(self, regions: Regions) -> Tensor:
        """Return the softmax of the class logits, (B, K, h, w)."""
        return regions.mask_logits.float().softmax(dim=1)

    def scores_at(self, regions: Regions, size: Sequence[int]) -> Tensor:
        """Return the softmax of the class logits resized to ``size``, (B, K, H, W)."""
        return resized(regions.mask_logits, size).softmax(dim=1)

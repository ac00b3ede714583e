"""DeepLabV3+'s head: the per-pixel yardstick of the region predictor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..host import CfgNode, Conv2d, ShapeSpec, configurable
from ..regions.types import Regions
from .aspp_decoder import ASPPDecoder

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

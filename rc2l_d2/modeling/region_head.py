"""The region head: pixel decoder and predictor of regions behind Detectron2's segmentation-head registry."""

from __future__ import annotations

from torch import Tensor, nn

from ..host import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from ..regions.types import Regions
from .aspp_decoder import ASPPDecoder
from .class_queries import ClassQueryPredictor
from .pixel_decoder import PixelDecoder
from .transformer_decoder import TransformerPredictor

_DECODERS = {"FPN": PixelDecoder, "ASPP": ASPPDecoder}
_PREDICTORS = {"class": ClassQueryPredictor, "hungarian": TransformerPredictor}


@SEM_SEG_HEADS_REGISTRY.register()
class RegionHead(nn.Module):
    """Predicts :class:`Regions` from backbone maps."""

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        """
        Args:
            pixel_decoder: computes per-pixel features (B, C, h, w) from the backbone maps.
            predictor: computes class and mask logits of each layer from the backbone maps and the per-pixel features.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        decoder = _DECODERS[cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME](cfg, input_shape)
        predictor = _PREDICTORS[cfg.MODEL.MASK_FORMER.MATCHING](cfg, input_shape, decoder.out_channels)
        return {"pixel_decoder": decoder, "predictor": predictor}

    def forward(self, features: dict[str, Tensor], supervised: int | None = None) -> Regions:
        """Predict regions from named backbone maps; ``auxiliary`` covers the first ``supervised`` ones (None: all)."""
        pixel_features = self.pixel_decoder(features)
        layers, region_features = self.predictor(features, pixel_features, supervised)
        class_logits, mask_logits = layers[-1]
        return Regions(class_logits, mask_logits, pixel_features, tuple(layers[:-1]), region_features)

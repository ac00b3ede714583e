"""The region head: pixel decoder and transformer decoder behind Detectron2's segmentation-head registry."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import InputError
from ..host import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from ..regions.types import Regions
from .pixel_decoder import PixelDecoder
from .transformer_decoder import RegionPredictor


@SEM_SEG_HEADS_REGISTRY.register()
class RegionHead(nn.Module):
    """Predicts :class:`Regions` from backbone maps."""

    @configurable
    def __init__(
        self,
        *,
        pixel_decoder: nn.Module,
        predictor: nn.Module,
        transformer_in_feature: str,
    ):
        """
        Args:
            pixel_decoder: computes per-pixel features (B, C, h, w) from the backbone maps.
            predictor: computes class and mask logits of each layer from one backbone map and the per-pixel features.
            transformer_in_feature: name of the map that the queries attend to.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.transformer_in_feature = transformer_in_feature

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        name = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        if name not in input_shape:
            raise InputError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {name!r}, but the backbone gives {sorted(input_shape)}; "
                "choose one of these."
            )
        return {
            "pixel_decoder": PixelDecoder(cfg, input_shape),
            "predictor": RegionPredictor(cfg, input_shape[name].channels),
            "transformer_in_feature": name,
        }

    def forward(self, features: dict[str, Tensor], supervised: int | None = None) -> Regions:
        """Predict regions from named backbone maps; ``auxiliary`` covers the first ``supervised`` ones (None: all)."""
        pixel_features = self.pixel_decoder(features)
        layers = self.predictor(features[self.transformer_in_feature], pixel_features, supervised)
        class_logits, mask_logits = layers[-1]
        return Regions(class_logits, mask_logits, pixel_features, tuple(layers[:-1]))

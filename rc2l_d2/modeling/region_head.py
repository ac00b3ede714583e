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
        num_classes: int,
        ignore_value: int,
    ):
        """
        Args:
            pixel_decoder: backbone maps to per-pixel features (B, C, h, w).
            predictor: one backbone map and the per-pixel features to (class, mask) logits of each layer.
            transformer_in_feature: name of the map that the queries attend to.
            num_classes: K, without "no object".
            ignore_value: label of pixels without a class.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.transformer_in_feature = transformer_in_feature
        self.num_classes = num_classes
        self.ignore_value = ignore_value

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
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def forward(self, features: dict[str, Tensor], supervised: int | None = None) -> Regions:
        """Predict regions from backbone maps by name.

        Earlier decoder layers predict for the first ``supervised`` images alone (None: for all).
        """
        pixel_features = self.pixel_decoder(features)
        layers = self.predictor(features[self.transformer_in_feature], pixel_features, supervised)
        class_logits, mask_logits = layers[-1]
        return Regions(class_logits, mask_logits, pixel_features, tuple(layers[:-1]))

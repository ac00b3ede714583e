"""The region predictor and its supervised training; importing this registers the architectures."""

from .meta_arch import RegionSegmentor
from .pixel_decoder import PixelDecoder
from .rc2l import RC2L
from .region_head import RegionHead
from .set_criterion import SetCriterion
from .transformer_decoder import RegionPredictor

__all__ = ["RC2L", "PixelDecoder", "RegionHead", "RegionPredictor", "RegionSegmentor", "SetCriterion"]

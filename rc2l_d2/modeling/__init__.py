"""The region predictor and its supervised training; importing this registers the architectures."""

from .meta_arch import RegionSegmentor
from .pixel_decoder import PixelDecoder
from .region_head import RegionHead
from .set_criterion import SetCriterion
from .transformer_decoder import RegionPredictor

# from .rc2l import RC2L

__all__ = ["PixelDecoder", "RegionHead", "RegionPredictor", "RegionSegmentor", "SetCriterion"]

"""The region predictor and the ways to train it; importing this registers the architectures."""

from .backbones import build_timm_backbone
from .meta_arch import RegionSegmentor
from .pixel_baselines import PixelConsistency, PixelContrast
from .pixel_decoder import PixelDecoder
from .rc2l import RC2L
from .region_head import RegionHead
from .semi_supervised import SemiSupervisedSegmentor
from .set_criterion import SetCriterion
from .transformer_decoder import RegionPredictor

__all__ = [
    "RC2L",
    "PixelConsistency",
    "PixelContrast",
    "PixelDecoder",
    "RegionHead",
    "RegionPredictor",
    "RegionSegmentor",
    "SemiSupervisedSegmentor",
    "SetCriterion",
    "build_timm_backbone",
]

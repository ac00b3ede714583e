"""The region predictor and the ways to train it; importing this registers the architectures."""

from .backbones import build_timm_backbone
from .meta_arch import RegionSegmentor
from .per_pixel import PerPixelSegmentor
from .pixel_baselines import PixelConsistency, PixelContrast
from .pixel_decoder import is_per_pixel
from .rc2l import RC2L
from .region_classifier import RegionClassifier, RegionSample
from .region_head import RegionHead
from .semi_supervised import SemiSupervisedSegmentor
from .unimatch import UniMatch

__all__ = [
    "RC2L", "PerPixelSegmentor", "PixelConsistency", "PixelContrast", "RegionClassifier", "RegionHead",
    "RegionSample", "RegionSegmentor", "SemiSupervisedSegmentor", "UniMatch", "build_timm_backbone", "is_per_pixel",
]  # fmt: skip

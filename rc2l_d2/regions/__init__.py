"""RC2L's method: regions, pseudo regions, matching by class, four losses. Pure tensor code on torch alone."""

from .losses import (
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from .matching import match_by_class, soft_dice
from .mixing import classmix_mask, cutmix_mask, mix
from .pseudo_labels import (
    class_confidence_sums,
    class_thresholds,
    masked_average_pool,
    pseudo_regions,
    update_class_confidence,
)
from .semantic import semantic_probabilities, semantic_scores
from .types import PseudoRegions, Regions, TeacherView

__all__ = [
    "PseudoRegions",
    "Regions",
    "TeacherView",
    "class_confidence_sums",
    "class_thresholds",
    "classmix_mask",
    "cutmix_mask",
    "masked_average_pool",
    "match_by_class",
    "mix",
    "pseudo_regions",
    "region_class_consistency",
    "region_feature_contrastive",
    "region_mask_contrastive",
    "semantic_mask_consistency",
    "semantic_probabilities",
    "semantic_scores",
    "soft_dice",
    "update_class_confidence",
]

"""RC2L's method: regions, pseudo regions, matching by class, four losses. Pure tensor code on torch alone."""

from .losses import (
    OneProcess,
    confident_cross_entropy,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from .matching import match_by_class, soft_dice
from .mixing import classmix_mask, cutmix_mask, mix
from .pixel_contrast import pixel_contrastive
from .pseudo_labels import (
    class_confidence_sums,
    class_thresholds,
    masked_average_pool,
    pseudo_regions,
    select,
    update_class_confidence,
)
from .semantic import most_probable, semantic_probabilities, semantic_scores
from .statistics import agreement_counts, coverage_counts, label_counts, quality_counts
from .types import PseudoRegions, Regions, Selection, TeacherView

__all__ = [
    "OneProcess",
    "PseudoRegions",
    "Regions",
    "Selection",
    "TeacherView",
    "agreement_counts",
    "class_confidence_sums",
    "class_thresholds",
    "classmix_mask",
    "confident_cross_entropy",
    "coverage_counts",
    "cutmix_mask",
    "label_counts",
    "masked_average_pool",
    "match_by_class",
    "mix",
    "most_probable",
    "pixel_contrastive",
    "pseudo_regions",
    "quality_counts",
    "region_class_consistency",
    "region_feature_contrastive",
    "region_mask_contrastive",
    "select",
    "semantic_mask_consistency",
    "semantic_probabilities",
    "semantic_scores",
    "soft_dice",
    "update_class_confidence",
]

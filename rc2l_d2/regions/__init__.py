"""The method: regions, pseudo regions, matching by class, four losses. Tensor code on torch alone."""

from .losses import (
    confident_cross_entropy,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from .matching import match_by_class, soft_dice
from .mixing import classmix_mask, cutmix_mask, labeled_prediction, mix, neighbours
from .pixel_contrast import pixel_contrastive
from .pseudo_labels import (
    PseudoLabeler,
    class_confidence_sums,
    class_thresholds,
    masked_average_pool,
    pseudo_regions,
    select,
    teacher_prediction,
    update_class_confidence,
)
from .ranks import batch_mean, gather_over_ranks, mean_over_ranks, sum_over_ranks
from .semantic import competing, most_probable, one_hot, semantic_probabilities, semantic_scores
from .statistics import agreement_counts, coverage_counts, label_counts, quality_counts
from .types import PseudoRegions, Regions, Selection, TeacherPrediction, concatenated, map_fields

__all__ = [
    "PseudoLabeler",
    "PseudoRegions",
    "Regions",
    "Selection",
    "TeacherPrediction",
    "agreement_counts",
    "batch_mean",
    "class_confidence_sums",
    "class_thresholds",
    "classmix_mask",
    "competing",
    "concatenated",
    "confident_cross_entropy",
    "coverage_counts",
    "cutmix_mask",
    "gather_over_ranks",
    "label_counts",
    "masked_average_pool",
    "match_by_class",
    "labeled_prediction",
    "map_fields",
    "mean_over_ranks",
    "mix",
    "most_probable",
    "neighbours",
    "one_hot",
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
    "sum_over_ranks",
    "teacher_prediction",
    "update_class_confidence",
]

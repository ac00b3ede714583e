"""RC2L: the region predictor with four losses between its regions and the teacher's pseudo regions."""

from __future__ import annotations

from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, configurable
from ..regions import (
    PseudoRegions,
    Regions,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
    soft_dice,
)
from .hungarian import assign_regions
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class RC2L(SemiSupervisedSegmentor):
    """The region predictor with RMC, RFC, RCC and SMC on unlabelled images."""

    @configurable
    def __init__(self, *, mask_temperature: float, feature_temperature: float, matching: str, **segmentor):
        """
        Args:
            mask_temperature: of the Dice similarities in RMC and RCC.
            feature_temperature: of the cosine similarities in RFC.
            matching: of queries and pseudo regions. "class": RMC by class, RCC by masks. "hungarian": MaskFormer's
                assignment, which copies its costs to the host at each step.
            segmentor: the arguments of :class:`SemiSupervisedSegmentor`.
        """
        super().__init__(**segmentor)
        self.mask_temperature = mask_temperature
        self.feature_temperature = feature_temperature
        self.matching = matching

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.MODEL.RC2L
        return {
            **super().from_config(cfg),
            "loss_weight": settings.LOSS_WEIGHT,
            "loss_weights": {
                "loss_rmc": settings.RMC_WEIGHT,
                "loss_rfc": settings.RFC_WEIGHT,
                "loss_rcc": settings.RCC_WEIGHT,
                "loss_smc": settings.SMC_WEIGHT,
            },
            "selection": cls.selection_from(settings),
            "mask_temperature": settings.MASK_TEMPERATURE,
            "feature_temperature": settings.FEATURE_TEMPERATURE,
            "matching": settings.MATCHING,
        }

    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Return RMC, RFC, RCC and SMC of the student's ``regions`` against ``pseudo``; see the parent."""
        classes, masks, features = regions.class_logits, regions.mask_logits, regions.features
        similarity = soft_dice(masks, pseudo.masks, pseudo.valid)
        assignment = None  # the match by class
        if self.matching == "hungarian":
            assignment = assign_regions(regions, pseudo, self.criterion.mask_weight, self.criterion.dice_weight)
        return {
            "loss_rmc": region_mask_contrastive(similarity, classes, pseudo, self.mask_temperature, assignment),
            "loss_rfc": region_feature_contrastive(semantic_map, features, pseudo, self.feature_temperature),
            "loss_rcc": region_class_consistency(similarity, classes, pseudo, self.mask_temperature, assignment),
            "loss_smc": semantic_mask_consistency(semantic_map, pseudo),
        }

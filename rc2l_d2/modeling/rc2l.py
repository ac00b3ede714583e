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
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class RC2L(SemiSupervisedSegmentor):
    """The region predictor with RMC, RFC, RCC and SMC on unlabelled images."""

    fits_unlabeled_regions = True
    feature_losses = ("loss_rfc",)

    @configurable
    def __init__(self, *, mask_temperature: float, feature_temperature: float, **segmentor):
        """
        Args:
            mask_temperature: of the Dice similarities in RMC.
            feature_temperature: of the cosine similarities in RFC.
            segmentor: the arguments of :class:`SemiSupervisedSegmentor`.
        """
        super().__init__(**segmentor)
        self.mask_temperature = mask_temperature
        self.feature_temperature = feature_temperature

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
            "selection": cls.selection_from(settings, cfg.MODEL.SEMI_SUPERVISED.MIN_REGION_AREA),
            "mask_temperature": settings.MASK_TEMPERATURE,
            "feature_temperature": settings.FEATURE_TEMPERATURE,
        }

    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Return RMC, RFC, RCC and SMC of the student's ``regions`` against ``pseudo``; see the parent."""
        match = self.criterion.match_regions(regions, pseudo)
        similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
        return {
            "loss_rmc": region_mask_contrastive(similarity, match, pseudo, self.mask_temperature),
            "loss_rfc": region_feature_contrastive(semantic_map, regions.features, pseudo, self.feature_temperature),
            "loss_rcc": region_class_consistency(regions.class_logits, match, pseudo),
            "loss_smc": semantic_mask_consistency(semantic_map, pseudo),
        }

"""RC2L: the region predictor trained on labelled images and on a teacher's pseudo regions, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, configurable
from ..regions import (
    PseudoRegions,
    Regions,
    TeacherView,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
    soft_dice,
)
from .hungarian import assign_regions
from .processes import ALL_PROCESSES, gather_images
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class RC2L(SemiSupervisedSegmentor):
    """A region predictor that also learns from pseudo regions."""

    @configurable
    def __init__(
        self,
        *,
        rmc_weight: float,
        rfc_weight: float,
        rcc_weight: float,
        smc_weight: float,
        mask_temperature: float,
        feature_temperature: float,
        matching: str,
        **segmentor,
    ):
        """
        Args:
            rmc_weight, rfc_weight, rcc_weight, smc_weight: weight of each loss; 0 leaves it out altogether.
            mask_temperature: of the Dice similarities in RMC and RCC.
            feature_temperature: of the cosine similarities in RFC.
            matching: how RMC and RCC match queries and regions: "class", or "hungarian", MaskFormer's assignment, which
                copies its costs to the host at each step.
            segmentor: the arguments of :class:`SemiSupervisedSegmentor` but the weights.
        """
        loss_weights = {
            "loss_rmc": rmc_weight,
            "loss_rfc": rfc_weight,
            "loss_rcc": rcc_weight,
            "loss_smc": smc_weight,
        }
        super().__init__(loss_weights=loss_weights, **segmentor)
        self.mask_temperature = mask_temperature
        self.feature_temperature = feature_temperature
        self.matching = matching

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        method = cfg.MODEL.RC2L
        return {
            **super().from_config(cfg),
            "rmc_weight": method.LOSS_WEIGHT * method.RMC_WEIGHT,
            "rfc_weight": method.LOSS_WEIGHT * method.RFC_WEIGHT,
            "rcc_weight": method.LOSS_WEIGHT * method.RCC_WEIGHT,
            "smc_weight": method.LOSS_WEIGHT * method.SMC_WEIGHT,
            "mask_temperature": method.MASK_TEMPERATURE,
            "feature_temperature": method.FEATURE_TEMPERATURE,
            "matching": method.MATCHING,
            "selection": cls.selection_from(method),
        }

    def loss_terms(
        self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions, view: TeacherView
    ) -> dict[str, Callable[[], Tensor]]:
        """RMC, RFC, RCC and SMC of the student's ``regions`` against ``pseudo``."""

        # Dice of queries and regions, where a loss asks for it: two of the four do.
        @cache
        def similarity() -> Tensor:
            return soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)

        @cache
        def assignment() -> Tensor | None:
            if self.matching == "class":
                return None
            return assign_regions(regions, pseudo, self.criterion.mask_weight, self.criterion.dice_weight)

        def feature_contrast() -> Tensor:
            keys, present = gather_images(pseudo.features), gather_images(pseudo.present)
            return region_feature_contrastive(
                semantic_map, regions.features, pseudo, self.feature_temperature, keys, present, ALL_PROCESSES
            )

        def with_matching(loss: Callable[..., Tensor]) -> Tensor:
            return loss(similarity(), regions.class_logits, pseudo, self.mask_temperature, assignment(), ALL_PROCESSES)

        return {
            "loss_rmc": lambda: with_matching(region_mask_contrastive),
            "loss_rfc": feature_contrast,
            "loss_rcc": lambda: with_matching(region_class_consistency),
            "loss_smc": lambda: semantic_mask_consistency(semantic_map, pseudo, ALL_PROCESSES),
        }

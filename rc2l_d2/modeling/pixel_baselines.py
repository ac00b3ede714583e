"""What RC2L is measured against: the same student, teacher and views, but pseudo labels and losses on pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, configurable
from ..regions import PseudoRegions, Regions, TeacherView, confident_cross_entropy, pixel_contrastive
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class PixelConsistency(SemiSupervisedSegmentor):
    """Pixel-level consistency (the scheme of FixMatch and mean teacher): cross-entropy against pseudo labels."""

    @configurable
    def __init__(self, *, consistency_weight: float, **segmentor):
        """
        Args:
            consistency_weight: weight of the cross-entropy; 0 leaves it out altogether.
            segmentor: the arguments of :class:`SemiSupervisedSegmentor` but the weights.
        """
        super().__init__(loss_weights={"loss_pixel_consistency": consistency_weight}, **segmentor)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        pixel = cfg.MODEL.PIXEL
        weight = cfg.MODEL.RC2L.LOSS_WEIGHT * pixel.CONSISTENCY_WEIGHT
        return {**super().from_config(cfg), "consistency_weight": weight, "selection": cls.selection_from(pixel)}

    def loss_terms(
        self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions, view: TeacherView
    ) -> dict[str, Callable[[], Tensor]]:
        """The cross-entropy of the student's semantic map against the pseudo labels."""
        return {"loss_pixel_consistency": lambda: confident_cross_entropy(semantic_map, pseudo)}


@META_ARCH_REGISTRY.register()
class PixelContrast(PixelConsistency):
    """Pixel-level consistency and contrast (PC2Seg's kind): InfoNCE between the two views' pixel features on top."""

    @configurable
    def __init__(self, *, contrast_weight: float, contrast_temperature: float, contrast_samples: int, **consistency):
        """
        Args:
            contrast_weight: weight of the contrastive loss; 0 leaves it out altogether.
            contrast_temperature: of the cosine similarities.
            contrast_samples: positions an image, drawn at each step; 0 for all.
            consistency: the arguments of :class:`PixelConsistency`.
        """
        super().__init__(**consistency)
        self.loss_weights["loss_pixel_contrast"] = contrast_weight
        self.contrast_temperature = contrast_temperature
        self.contrast_samples = contrast_samples

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        pixel = cfg.MODEL.PIXEL
        return {
            **super().from_config(cfg),
            "contrast_weight": cfg.MODEL.RC2L.LOSS_WEIGHT * pixel.CONTRAST_WEIGHT,
            "contrast_temperature": pixel.CONTRAST_TEMPERATURE,
            "contrast_samples": pixel.CONTRAST_SAMPLES,
        }

    def loss_terms(
        self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions, view: TeacherView
    ) -> dict[str, Callable[[], Tensor]]:
        """The cross-entropy, and the contrast of the student's and the teacher's pixel features."""

        def contrast() -> Tensor:
            draw = torch.rand(view.inside.flatten(1).shape, device=view.inside.device)
            return pixel_contrastive(regions.features, view, draw, self.contrast_samples, self.contrast_temperature)

        return {**super().loss_terms(regions, semantic_map, pseudo, view), "loss_pixel_contrast": contrast}

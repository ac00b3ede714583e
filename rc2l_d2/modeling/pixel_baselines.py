"""The pixel-level baselines: same student, teacher and views as RC2L, but losses on pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, configurable
from ..regions import PseudoRegions, Regions, confident_cross_entropy, pixel_contrastive
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class PixelConsistency(SemiSupervisedSegmentor):
    """Pixel-level consistency (the scheme of FixMatch and mean teacher): cross-entropy against pseudo labels."""

    feature_losses: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.MODEL.PIXEL
        return {
            **super().from_config(cfg),
            "loss_weights": {"loss_pixel_consistency": settings.CONSISTENCY_WEIGHT},
            "selection": cls.selection_from(settings),
        }

    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Return the cross-entropy of the student's semantic map against the pseudo labels; see the parent."""
        return {"loss_pixel_consistency": confident_cross_entropy(semantic_map, pseudo)}


@META_ARCH_REGISTRY.register()
class PixelContrast(PixelConsistency):
    """Pixel-level consistency and contrast (the scheme of PC2Seg): InfoNCE between the two views' pixel features."""

    feature_losses = ("loss_pixel_contrast",)

    @configurable
    def __init__(self, *, contrast_temperature: float, contrast_samples: int, **segmentor):
        """
        Args:
            contrast_temperature: of the cosine similarities.
            contrast_samples: pixels sampled in each image at each step; 0 for all.
            segmentor: the arguments of :class:`PixelConsistency`.
        """
        super().__init__(**segmentor)
        self.contrast_temperature = contrast_temperature
        self.contrast_samples = contrast_samples

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.MODEL.PIXEL
        arguments = super().from_config(cfg)
        arguments["loss_weights"]["loss_pixel_contrast"] = settings.CONTRAST_WEIGHT
        return {
            **arguments,
            "contrast_temperature": settings.CONTRAST_TEMPERATURE,
            "contrast_samples": settings.CONTRAST_SAMPLES,
        }

    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Add the contrast of the student's and the teacher's pixel features to the parent's loss."""
        assert pseudo.teacher is not None
        uniform = torch.rand(pseudo.valid.flatten(1).shape, device=pseudo.valid.device)
        contrast = pixel_contrastive(
            regions.features, pseudo.teacher, uniform, self.contrast_samples, self.contrast_temperature
        )
        return {**super().unlabeled_losses(regions, semantic_map, pseudo), "loss_pixel_contrast": contrast}

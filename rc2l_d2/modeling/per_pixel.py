"""A per-pixel classifier in the pipeline of the region predictor, trained on labels only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..host import META_ARCH_REGISTRY, CfgNode, ShapeSpec
from ..regions import Regions, mean_over_ranks
from .criterion import Criterion
from .meta_arch import RegionSegmentor, resized
from .per_pixel_head import PerPixelHead


class PixelCriterion(Criterion):
    """Cross-entropy of the pixels with a label, mean over those of all ranks."""

    loss_weights = {"loss_sem_seg": 1.0}

    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        valid = self.valid(labels)
        logits = resized(regions.mask_logits, labels.shape[-2:])
        loss = F.cross_entropy(logits, labels.long().masked_fill(~valid, 0), reduction="none")
        return {"loss_sem_seg": (loss * valid).sum() / mean_over_ranks(valid.sum().float()).clamp(min=1)}


@META_ARCH_REGISTRY.register()
class PerPixelSegmentor(RegionSegmentor):
    """Backbone and :class:`PerPixelHead`: DeepLabV3+ as the yardstick. MODEL.SEM_SEG_HEAD.NAME is not read."""

    per_pixel = True

    @classmethod
    def build_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
        return PerPixelHead(cfg, input_shape)

    @classmethod
    def build_criterion(cls, cfg: CfgNode) -> Criterion:
        return PixelCriterion(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)

    def semantic_map(self, regions: Regions) -> Tensor:
        """Return the softmax of the class logits, (B, K, h, w)."""
        return regions.mask_logits.float().softmax(dim=1)

    def scores_at(self, regions: Regions, size: Sequence[int]) -> Tensor:
        """Return the softmax of the class logits resized to ``size``, (B, K, H, W)."""
        return resized(regions.mask_logits, size).softmax(dim=1)

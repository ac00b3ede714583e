"""UniMatch's recipe on the per-pixel head: the baseline that a user would otherwise choose."""

from __future__ import annotations

from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, configurable
from ..regions import PseudoRegions, Regions, Selection, confident_cross_entropy
from .per_pixel import PerPixelSegmentor
from .semi_supervised import SemiSupervisedSegmentor


@META_ARCH_REGISTRY.register()
class UniMatch(PerPixelSegmentor, SemiSupervisedSegmentor):
    """Per-pixel consistency of strong views and of a view without some feature channels.

    Yang et al., *Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation*, CVPR 2023. With its
    MODEL.SEMI_SUPERVISED.STRONG_VIEWS 2 and FEATURE_DROPOUT 0.5 the loss is twice that of UniMatch:
    L_sup + 0.5 * (mean over both strong views) + 0.5 * L_fp. Different here, among others: the pseudo labels are those
    of the EMA teacher, as in UniMatch V2; burn-in, ramp and mixing are those of the other methods.
    """

    feature_losses = ()
    recipe = {"STRONG_VIEWS": 2, "FEATURE_DROPOUT": 0.5, "MIX": "cutmix"}

    @configurable
    def __init__(self, *, views: int, **segmentor):
        """
        Args:
            views: V, strong views of an image; with a feature dropout there is one view more.
            segmentor: the arguments of :class:`SemiSupervisedSegmentor`.
        """
        super().__init__(**segmentor)
        self.views = views

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.MODEL.SEMI_SUPERVISED
        return {
            **super().from_config(cfg),
            "views": settings.STRONG_VIEWS,
            "loss_weights": {"loss_strong": 0.5, "loss_dropped": 0.5 if settings.FEATURE_DROPOUT else 0.0},
            "selection": Selection("pixel", cfg.MODEL.UNIMATCH.CONFIDENCE_THRESHOLD, ratio=0.0),
        }

    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Return the cross-entropy of the confident pixels, of the strong and of the dropped views; see the parent."""
        dropped = len(semantic_map) // (self.views + 1) if self.feature_dropout else 0
        strong = len(semantic_map) - dropped
        losses = {"loss_strong": confident_cross_entropy(semantic_map[:strong], pseudo.images(0, strong))}
        if dropped:
            losses["loss_dropped"] = confident_cross_entropy(semantic_map[strong:], pseudo.images(strong))
        return losses

"""Base class of the semi-supervised architectures: named losses on unlabelled images, and their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ..host import CfgNode, configurable
from ..regions import PseudoRegions, Regions, Selection
from .meta_arch import RegionSegmentor


class SemiSupervisedSegmentor(RegionSegmentor, ABC):
    """A :class:`RegionSegmentor` with losses on the pseudo regions of unlabelled images.

    The trainer holds the teacher, so that a state dict of this class is that of a plain region predictor.

    Attributes:
        recipe: published values of keys of MODEL.SEMI_SUPERVISED; training warns of others.
        feature_losses: names of the unlabelled losses that read the teacher's features F'; None: any of them may.
    """

    uses_unlabeled = True
    recipe: dict[str, object] = {}
    feature_losses: tuple[str, ...] | None = None

    @configurable
    def __init__(self, *, loss_weights: dict[str, float], selection: Selection, loss_weight: float = 1.0, **segmentor):
        """
        Args:
            loss_weights: weight of each unlabelled loss by its name in the log; 0 switches a loss off.
            selection: rule that selects pseudo labels.
            loss_weight: lambda, the weight of all unlabelled losses together.
            segmentor: the arguments of :class:`RegionSegmentor`.
        """
        super().__init__(**segmentor)
        self.loss_weight = loss_weight
        self.loss_weights = loss_weights
        self.selection = selection

    @property
    def reads_teacher_features(self) -> bool:
        """Whether a loss that is on reads the teacher's features F'."""
        names = self.loss_weights if self.feature_losses is None else self.feature_losses
        return any(self.loss_weights[name] > 0 for name in names)

    @staticmethod
    def selection_from(settings: CfgNode, min_area: int = 1) -> Selection:
        """Return the selection of MODEL.RC2L or MODEL.PIXEL, and the smallest region."""
        return Selection(settings.SELECTION, settings.CONFIDENCE_THRESHOLD, settings.CLASS_THRESHOLD_RATIO, min_area)

    @abstractmethod
    def unlabeled_losses(self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """Return the unweighted losses on unlabelled images, by the names in ``loss_weights``.

        Args:
            regions: the student's prediction for its views, see :class:`rc2l_d2.engine.student_views.StudentViews`.
            semantic_map: (B, K, h, w), s_c of these regions.
            pseudo: the teacher's pseudo regions for the same images.
        """

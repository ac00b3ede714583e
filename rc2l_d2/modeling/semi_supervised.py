"""What every semi-supervised architecture here does alike: one forward pass for labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..host import CfgNode
from ..regions import PseudoRegions, Regions, Selection, TeacherView, semantic_probabilities
from .meta_arch import RegionSegmentor


class SemiSupervisedSegmentor(RegionSegmentor):
    """A :class:`RegionSegmentor` that also learns from what a teacher says about unlabelled images.

    The teacher is not part of it: it is an exponential moving average of this model, kept by the trainer, so that the
    weights are those of a plain region predictor. Subclasses say which losses there are.

    Attributes:
        loss_weights: weight of each unlabelled loss by its name in the log; 0 leaves a loss out altogether.
        selection: which pseudo labels it learns from.
    """

    uses_unlabeled = True

    def __init__(self, *, loss_weights: dict[str, float], selection: Selection, **segmentor):
        """
        Args:
            loss_weights: see above.
            selection: see above.
            segmentor: the arguments of :class:`RegionSegmentor`.
        """
        super().__init__(**segmentor)
        self.loss_weights = loss_weights
        self.selection = selection

    @staticmethod
    def selection_from(settings: CfgNode) -> Selection:
        """What MODEL.RC2L or MODEL.PIXEL says."""
        return Selection(settings.SELECTION, settings.CONFIDENCE_THRESHOLD, settings.CLASS_THRESHOLD_RATIO)

    def loss_terms(
        self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions, view: TeacherView
    ) -> dict[str, Callable[[], Tensor]]:
        """What computes each loss of ``loss_weights``.

        Args:
            regions: the student's, of the mixed strong views.
            semantic_map: (B, K, h, w), their normalised semantic map s_c.
            pseudo: the teacher's pseudo regions of the same, and ``view``, what they were cut from.
        """
        raise NotImplementedError

    def unlabeled_losses(
        self, regions: Regions, semantic_map: Tensor, pseudo: PseudoRegions, view: TeacherView
    ) -> dict[str, Tensor]:
        """The losses on unlabelled images, each times its weight; arguments as :meth:`loss_terms`."""
        terms = self.loss_terms(regions, semantic_map, pseudo, view)
        return {name: weight * terms[name]() for name, weight in self.loss_weights.items() if weight > 0}

    def forward(
        self,
        batched_inputs: list[dict],
        strong: Tensor | None = None,
        pseudo: PseudoRegions | None = None,
        view: TeacherView | None = None,
        ramp: float = 1.0,
        look: Callable[[Tensor, Regions, Tensor], None] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training, the losses of both streams from one pass of the student; in evaluation, as the parent's.

        Args:
            batched_inputs: labelled samples (training) or test samples (evaluation).
            strong: (B, 3, H, W), normalised strong views of unlabelled images, mixed; of the labelled images' size.
            pseudo: the teacher's regions of the same views. None of the three before the end of burn-in.
            view: what these regions were cut from.
            ramp: factor on the unlabelled losses, 0 to 1.
            look: is shown the labels (B, H, W), the student's regions of the mixed strong views and their semantic map
                (B, K, h, w), and must not change them.
        """
        if not self.training or strong is None:
            return super().forward(batched_inputs)
        images = self.preprocess([sample["image"] for sample in batched_inputs]).tensor
        labels = self.preprocess_labels([sample["sem_seg"] for sample in batched_inputs])
        regions = self.regions(torch.cat([images, strong]), supervised=len(images))
        labeled, unlabeled = regions.images(0, len(images)), regions.images(len(images), len(images) + len(strong))
        semantic_map = semantic_probabilities(unlabeled.class_logits, unlabeled.mask_logits)
        if look is not None:
            look(labels, unlabeled, semantic_map)
        losses = self.supervised_losses(labeled, labels)
        unlabeled_losses = self.unlabeled_losses(unlabeled, semantic_map, pseudo, view)
        return {**losses, **{name: ramp * loss for name, loss in unlabeled_losses.items()}}

"""Value types that pass between student, teacher and losses.

B images, N queries, K classes, C feature channels, h x w pixels of the mask grid (the stride of the pixel decoder, 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """Prediction of a region predictor: a class and a mask for each query, and per-pixel features.

    Attributes:
        class_logits: (B, N, K+1); the last entry is "no object".
        mask_logits: (B, N, h, w).
        features: (B, C, h, w), per-pixel features F of the pixel decoder. Region features are pooled from them.
        auxiliary: ``(class_logits, mask_logits)`` of each earlier decoder layer, first layer first. They cover only the
            labelled images, which are the first of the batch. Empty without deep supervision.
        region_features: (B, N, C'), what the class of each query is predicted from, without gradient; None for
            predictors without such features.
    """

    class_logits: Tensor
    mask_logits: Tensor
    features: Tensor
    auxiliary: tuple[tuple[Tensor, Tensor], ...] = ()
    region_features: Tensor | None = None

    def images(self, start: int, stop: int | None = None) -> Regions:
        """Return the regions of images ``start`` to ``stop - 1`` (views, no copy)."""
        return Regions(
            self.class_logits[start:stop],
            self.mask_logits[start:stop],
            self.features[start:stop],
            tuple((classes[start:stop], masks[start:stop]) for classes, masks in self.auxiliary),
            None if self.region_features is None else self.region_features[start:stop],
        )


@dataclass(frozen=True)
class TeacherPrediction:
    """The teacher's prediction for unlabelled images, per pixel of the mask grid. Mixing acts on all fields.

    Attributes:
        semantic_map: (B, K, h, w), s', normalised: non-negative, sums to one over the classes.
        features: (B, C, h, w), F'.
        label: (B, h, w), int64, the pseudo label y(x) = argmax_c s'_c(x).
        confidence: (B, h, w), v(x) = max_c s'_c(x), at least float32.
        inside: (B, h, w) bool, False on padding.
        valid: (B, h, w) bool, confident pixels, whose pseudo labels are used; equal to ``inside`` before selection.
    """

    semantic_map: Tensor
    features: Tensor
    label: Tensor
    confidence: Tensor
    inside: Tensor
    valid: Tensor


def map_fields(function: Callable[..., Tensor], *predictions: TeacherPrediction) -> TeacherPrediction:
    """Return the prediction whose fields are ``function`` of the fields of ``predictions``."""
    names = [field.name for field in fields(predictions[0])]
    return TeacherPrediction(**{name: function(*(getattr(p, name) for p in predictions)) for name in names})


def concatenated(predictions: Sequence[TeacherPrediction]) -> TeacherPrediction:
    """Return one prediction for the images of several."""
    return map_fields(lambda *maps: torch.cat(maps), *predictions)


@dataclass(frozen=True)
class Selection:
    """Rule that selects pseudo labels by their confidence.

    Attributes:
        unit: "region": a region is selected as a whole, by its mean confidence; "pixel": each pixel by its confidence.
        floor: smallest threshold, a probability.
        ratio: the threshold of class c is at least this fraction of kappa_c, the running mean confidence of the class.
        min_area: smallest region, in pixels of the mask grid; 1 leaves none out.
    """

    unit: str
    floor: float
    ratio: float
    min_area: int = 1


@dataclass(frozen=True)
class PseudoRegions:
    """The teacher's regions as *class slots*, one slot per class, so that every shape is fixed.

    Attributes:
        masks: (B, K, h, w), 0 or 1 in the dtype of the teacher's semantic map: M_c.
        present: (B, K) bool, whether slot c holds a region.
        valid: (B, h, w) bool, pixels that lie in a present region.
        features: (B, K, C), r'_c, mean teacher feature over M_c; zero where the slot is empty.
        weights: (B, K), omega_c in [0, 1], mean confidence of the pixels labelled c, valid or not; zero in empty slots.
        teacher: the prediction that the regions were cut from.
    """

    masks: Tensor
    present: Tensor
    valid: Tensor
    features: Tensor
    weights: Tensor
    teacher: TeacherPrediction | None = None

    def images(self, start: int, stop: int | None = None) -> PseudoRegions:
        """Return the regions of images ``start`` to ``stop - 1`` (views, no copy)."""
        names = [field.name for field in fields(self) if field.name != "teacher"]
        teacher = self.teacher and map_fields(lambda x: x[start:stop], self.teacher)
        return PseudoRegions(**{name: getattr(self, name)[start:stop] for name in names}, teacher=teacher)

    def detach(self) -> PseudoRegions:
        """Return the same regions without gradient (stop-gradient on the teacher)."""
        masks, features, weights = self.masks.detach(), self.features.detach(), self.weights.detach()
        return replace(self, masks=masks, features=features, weights=weights)

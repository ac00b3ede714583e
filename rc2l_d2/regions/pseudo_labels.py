"""From the teacher's prediction to pseudo regions: pseudo labels, class thresholds, selection, class slots.

Everything here has no gradient, a fixed shape, and stays on the device.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .ranks import sum_over_ranks
from .semantic import at_least_float32, one_hot
from .types import PseudoRegions, Selection, TeacherPrediction

# kappa_c before the first prediction (our reading).
INITIAL_CONFIDENCE = 0.7
# Of the running mean kappa_c (our reading).
MOMENTUM = 0.98


@torch.no_grad()
def teacher_prediction(semantic_map: Tensor, features: Tensor, inside: Tensor) -> TeacherPrediction:
    """Add pseudo label y(x) = argmax_c s'_c(x) and confidence v(x) = max_c s'_c(x) to the teacher's maps.

    Args:
        semantic_map: (B, K, h, w), s'.
        features: (B, C, h, w), F'.
        inside: (B, h, w) bool, False on padding.
    """
    confidence, label = semantic_map.max(dim=1)
    return TeacherPrediction(semantic_map, features, label, at_least_float32(confidence), inside, valid=inside)


def masked_average_pool(features: Tensor, masks: Tensor) -> Tensor:
    """Region features by mask average pooling: MAP(F, M_c) = sum_x M_c(x) F(x) / sum_x M_c(x).

    Args:
        features: (B, C, h, w).
        masks: (B, K, h, w), non-negative weights.

    Returns:
        (B, K, C), at least float32; zero for an empty mask.
    """
    features, masks = at_least_float32(features), at_least_float32(masks)
    with torch.autocast(masks.device.type, enabled=False):
        sums = torch.einsum("bkhw,bchw->bkc", masks, features)
    return sums / masks.sum(dim=(2, 3)).clamp_min(1e-6).unsqueeze(-1)


@torch.no_grad()
def class_confidence_sums(teacher: TeacherPrediction) -> tuple[Tensor, Tensor]:
    """Return the summed confidence and the number of the pixels with pseudo label c, (K,) each.

    The caller sums both over ranks and then divides. Non-finite confidences are left out, since a running mean would
    keep them for ever.
    """
    finite = teacher.confidence.isfinite()
    of_class = _of_class(teacher) & finite.unsqueeze(1)
    sums = (of_class * teacher.confidence.where(finite, 0.0).unsqueeze(1)).sum(dim=(0, 2, 3))
    return sums, of_class.sum(dim=(0, 2, 3)).to(sums.dtype)


@torch.no_grad()
def update_class_confidence(kappa: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Running mean confidence kappa_c <- 0.98 * kappa_c + 0.02 * mean v where the label is c.

    Our reading: rare classes are less confident everywhere, and one threshold for all would never select them.

    Args:
        kappa: (K,).
        sums, counts: (K,), from :func:`class_confidence_sums`. A class without pixels keeps its kappa.
    """
    updated = torch.lerp(sums / counts.clamp_min(1.0), kappa, MOMENTUM)
    return torch.where(counts > 0, updated, kappa)


def class_thresholds(kappa: Tensor, selection: Selection) -> Tensor:
    """Confidence threshold of each class, tau_c = max(floor, ratio * kappa_c), (K,) probabilities (our reading)."""
    return (selection.ratio * kappa).clamp_min(selection.floor)


@torch.no_grad()
def select(teacher: TeacherPrediction, thresholds: Tensor, unit: str) -> TeacherPrediction:
    """Select the confident pixels: return ``teacher`` with ``valid`` (our reading).

    omega_c is the mean of v(x) where y(x) = c. A pixel with y(x) = c is valid if

        unit "region":  omega_c > tau_c, so that a region is selected as a whole
        unit "pixel":   v(x) > tau_c, as in FixMatch

    Wrong regions are often wrong as a whole: a threshold per pixel would keep their most confident pixels, and would
    drop the borders of right regions.

    Args:
        teacher: prediction before mixing, since mixing cuts regions into pieces.
        thresholds: (K,), tau.
        unit: "region" or "pixel".
    """
    of_class, confidence = _of_class(teacher), teacher.confidence.unsqueeze(1)
    compared = _mean_confidence(of_class, confidence)[..., None, None] if unit == "region" else confidence
    return replace(teacher, valid=(of_class & (compared > thresholds.view(1, -1, 1, 1))).any(dim=1))


@torch.no_grad()
def pseudo_regions(teacher: TeacherPrediction, min_area: int) -> PseudoRegions:
    """Cut the valid pixels into pseudo regions M_c(x) = 1[y(x) = c and x is valid].

    Args:
        teacher: prediction, possibly mixed.
        min_area: slots with fewer pixels of the mask grid are empty.
    """
    of_class = _of_class(teacher)
    masks = of_class & teacher.valid.unsqueeze(1)
    present = masks.sum(dim=(2, 3)) >= min_area
    masks = masks & present[..., None, None]
    dtype = teacher.semantic_map.dtype
    return PseudoRegions(
        masks=masks.to(dtype),
        present=present,
        valid=masks.any(dim=1),
        features=masked_average_pool(teacher.features, masks.to(dtype)),
        weights=_mean_confidence(of_class, teacher.confidence.unsqueeze(1)) * present,
        teacher=teacher,
    )


class PseudoLabeler:
    """Turns the teacher's predictions into pseudo regions; holds kappa and the selection rule.

    Attributes:
        kappa: (K,), running mean confidence of each class, the same on all ranks.
        selection: the rule.
    """

    def __init__(self, num_classes: int, selection: Selection, *, device: torch.device | str = "cpu"):
        self.kappa = torch.full((num_classes,), INITIAL_CONFIDENCE, device=device)
        self.selection = selection

    def observe(self, teacher: TeacherPrediction) -> None:
        """Update kappa by the confidence of ``teacher`` on all ranks."""
        sums, counts = sum_over_ranks(torch.stack(class_confidence_sums(teacher)))
        self.kappa = update_class_confidence(self.kappa, sums, counts)

    def select(self, teacher: TeacherPrediction) -> TeacherPrediction:
        """Return ``teacher`` with its confident pixels (:func:`select`) at the current thresholds."""
        return select(teacher, class_thresholds(self.kappa, self.selection), self.selection.unit)

    def regions(self, teacher: TeacherPrediction) -> PseudoRegions:
        """Return the pseudo regions of a selected, possibly mixed prediction."""
        return pseudo_regions(teacher, self.selection.min_area)


def _of_class(teacher: TeacherPrediction) -> Tensor:
    """1[y(x) = c] inside the images, (B, K, h, w) bool."""
    return one_hot(teacher.label, teacher.semantic_map.shape[1]) & teacher.inside.unsqueeze(1)


def _mean_confidence(of_class: Tensor, confidence: Tensor) -> Tensor:
    """omega_c, (B, K): the mean of v(x) where y(x) = c."""
    return (of_class * confidence).sum(dim=(2, 3)) / of_class.sum(dim=(2, 3)).clamp_min(1)

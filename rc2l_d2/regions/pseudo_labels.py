"""The teacher's output turned into pseudo regions, one slot a class.

Everything here is without gradient, of fixed shape and on the device: no list of regions, no copy to the host.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .semantic import at_least_float32
from .types import PseudoRegions, Selection, TeacherView


def labels_and_confidence(view: TeacherView) -> tuple[Tensor, Tensor]:
    """1[y(x) = c] inside the images, (B, K, h, w) bool, and v(x), (B, 1, h, w), at least float32.

    The pseudo label is y(x) = argmax_c s'_c(x), its confidence v(x) = max_c s'_c(x).
    """
    confidence, label = view.probabilities.max(dim=1, keepdim=True)
    classes = torch.arange(view.probabilities.shape[1], device=label.device).view(1, -1, 1, 1)
    return (label == classes) & view.inside.unsqueeze(1), at_least_float32(confidence)


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
def class_confidence_sums(view: TeacherView) -> tuple[Tensor, Tensor]:
    """Per class, the summed confidence and the number of the positions that the teacher gives to it.

    Two (K,) tensors. They are returned apart so that processes can add theirs up before they divide. Positions where
    the teacher says no number count nowhere: a running mean would never be a number again.
    """
    labelled, confidence = labels_and_confidence(view)
    finite = confidence.isfinite()
    labels = labelled & finite
    return (labels * confidence.where(finite, 0.0)).sum(dim=(0, 2, 3)), labels.sum(dim=(0, 2, 3)).to(confidence.dtype)


@torch.no_grad()
def update_class_confidence(confidence: Tensor, sums: Tensor, counts: Tensor, momentum: float = 0.98) -> Tensor:
    """Running mean confidence kappa_c <- momentum * kappa_c + (1 - momentum) * mean v where the label is c.

    Our reading: rare classes are less confident everywhere, and one threshold for all would never let them through.

    Args:
        confidence: (K,), kappa; start from 0.7.
        sums, counts: (K,), from :func:`class_confidence_sums`. A class without positions keeps its kappa.
    """
    updated = torch.lerp(sums / counts.clamp_min(1.0), confidence, momentum)
    return torch.where(counts > 0, updated, confidence)


def class_thresholds(confidence: Tensor, selection: Selection) -> Tensor:
    """Confidence threshold of each class, tau_c = max(floor, ratio * kappa_c), (K,) probabilities (our reading)."""
    return (selection.ratio * confidence).clamp_min(selection.floor)


def _mean_confidence(labelled: Tensor, confidence: Tensor) -> Tensor:
    """omega_c, (B, K): the mean of v(x) where y(x) = c."""
    return (labelled * confidence).sum(dim=(2, 3)) / labelled.sum(dim=(2, 3)).clamp_min(1)


@torch.no_grad()
def select(view: TeacherView, thresholds: Tensor, unit: str) -> TeacherView:
    """Decide which positions the teacher is confident enough of: ``view`` with ``chosen``.

    With y(x) and v(x) of :func:`labels_and_confidence` and omega_c the mean of v where y(x) = c, a position x with
    y(x) = c is chosen (our reading) where

        unit "region":  omega_c > tau_c: a region is taken whole or left
        unit "pixel":   v(x) > tau_c: FixMatch's choice, position by position

    A region is often wrong as a whole, and then less confident as a whole; position by position, its surest part would
    be learned from, and the edges of right ones would be left out.

    Args:
        view: the teacher's view of B images with K classes, before mixing: a mixed image has pieces of regions.
        thresholds: (K,), tau.
        unit: of :class:`Selection`, "region" or "pixel".
    """
    labelled, confidence = labels_and_confidence(view)
    compared = _mean_confidence(labelled, confidence)[..., None, None] if unit == "region" else confidence
    return replace(view, chosen=(labelled & (compared > thresholds.view(1, -1, 1, 1))).any(dim=1))


@torch.no_grad()
def pseudo_regions(view: TeacherView, min_area: int) -> PseudoRegions:
    """Cut the chosen positions of the teacher's semantic map into pseudo regions.

    Slot c is M_c(x) = 1[y(x) = c and x is chosen]; it is present where it covers ``min_area`` positions.

    Args:
        view: the teacher's (possibly mixed) view of B images with K classes.
        min_area: smallest region, in positions of the mask grid.
    """
    labelled, confidence = labels_and_confidence(view)
    chosen = labelled if view.chosen is None else labelled & view.chosen.unsqueeze(1)
    present = chosen.sum(dim=(2, 3)) >= min_area
    masks = chosen & present[..., None, None]
    dtype = view.probabilities.dtype
    return PseudoRegions(
        masks=masks.to(dtype),
        present=present,
        valid=masks.any(dim=1),
        features=masked_average_pool(view.features, masks.to(dtype)),
        weights=_mean_confidence(labelled, confidence) * present,
    )

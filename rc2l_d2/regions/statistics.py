"""Counts about a step's pseudo labels that add up over steps and ranks.

Counts have no gradient and a fixed shape, and stay on the device. The log forms fractions from their sums on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .semantic import most_probable, one_hot
from .types import PseudoRegions


@torch.no_grad()
def coverage_counts(pseudo: PseudoRegions) -> dict[str, Tensor]:
    """Count confident pixels and regions.

    Returns:
        Scalars: "pixels", those inside the images; "confident", those in a pseudo region; "images"; "regions";
        "classes", K; "classes_present", classes with a region in the batch. And (K,): "pseudo_area", the confident
        pixels of each class.
    """
    assert pseudo.teacher is not None
    images, classes = pseudo.present.shape
    confident = pseudo.valid.sum()
    return {
        "pixels": pseudo.teacher.inside.sum(),
        "confident": confident,
        "images": torch.full_like(confident, images),
        "regions": pseudo.present.sum(),
        "classes": torch.full_like(confident, classes),
        "classes_present": pseudo.present.any(dim=0).sum(),
        "pseudo_area": pseudo.masks.bool().sum(dim=(0, 2, 3)),
    }


@torch.no_grad()
def agreement_counts(semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
    """Count where the student's most probable class is the pseudo label.

    Args:
        semantic_map: (B, K, h, w), s_c of the student.
        pseudo: the teacher's regions.

    Returns:
        Scalars: "compared", the confident pixels; "agreed", those where both agree.
    """
    agreed = (most_probable(semantic_map, dim=1) == most_probable(pseudo.masks, dim=1)) & pseudo.valid
    return {"compared": pseudo.valid.sum(), "agreed": agreed.sum()}


@torch.no_grad()
def quality_counts(pseudo: PseudoRegions, labels: Tensor) -> dict[str, Tensor]:
    """Count right pseudo labels, class by class.

    Args:
        pseudo: of B images with K classes.
        labels: (B, h, w), integer ground truth; values outside 0, ..., K-1 are left out.

    Returns:
        (K,) each: "labelled", pixels with this label; "claimed", labelled and confident pixels with this pseudo label;
        "correct", those with both.
    """
    truth = one_hot(labels, pseudo.masks.shape[1])
    claimed = pseudo.masks.bool() & truth.any(dim=1, keepdim=True)
    counts = {"labelled": truth, "claimed": claimed, "correct": claimed & truth}
    return {name: where.sum(dim=(0, 2, 3)) for name, where in counts.items()}


@torch.no_grad()
def label_counts(labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Return "label_area", (K,): the pixels of each of the K ``classes`` in labels (B, h, w)."""
    return {"label_area": one_hot(labels, classes).sum(dim=(0, 2, 3))}

"""What can be said about a step's pseudo labels, as counts that add up over steps and processes.

Everything here is without gradient, of fixed shape and on the device: shares are formed from the sums, on the host,
when somebody wants to read them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .semantic import most_probable
from .types import PseudoRegions, TeacherView


@torch.no_grad()
def coverage_counts(view: TeacherView, pseudo: PseudoRegions) -> dict[str, Tensor]:
    """How much the teacher is confident of.

    Returns:
        Scalars: "positions" inside the images, of which "confident" are in a pseudo region; "images"; their "regions";
        "classes", K, of which "classes_present" have a region somewhere in the batch. And (K,): "pseudo_area", the
        confident positions by class.
    """
    images, classes = pseudo.present.shape
    confident = pseudo.valid.sum()
    return {
        "positions": view.inside.sum(),
        "confident": confident,
        "images": torch.full_like(confident, images),
        "regions": pseudo.present.sum(),
        "classes": torch.full_like(confident, classes),
        "classes_present": pseudo.present.any(dim=0).sum(),
        "pseudo_area": pseudo.masks.bool().sum(dim=(0, 2, 3)),
    }


@torch.no_grad()
def agreement_counts(semantic_map: Tensor, pseudo: PseudoRegions) -> dict[str, Tensor]:
    """Where the student's most probable class is the pseudo label.

    Args:
        semantic_map: (B, K, h, w), s_c of the student.
        pseudo: the teacher's regions.

    Returns:
        Scalars: "asked", the confident positions, and how many of them are "agreed" on.
    """
    agreed = (most_probable(semantic_map, dim=1) == most_probable(pseudo.masks, dim=1)) & pseudo.valid
    return {"asked": pseudo.valid.sum(), "agreed": agreed.sum()}


@torch.no_grad()
def quality_counts(pseudo: PseudoRegions, labels: Tensor) -> dict[str, Tensor]:
    """How often pseudo labels are right, class by class.

    Args:
        pseudo: of B images with K classes.
        labels: (B, h, w), integer, what the positions are; any value that is no class says nothing.

    Returns:
        (K,) each: "labelled", positions of each class; "claimed", confident positions given to each class whose label
        is known; "correct", those of them that are of this class.
    """
    truth = _one_hot(labels, pseudo.masks.shape[1])
    claimed = pseudo.masks.bool() & truth.any(dim=1, keepdim=True)
    counts = {"labelled": truth, "claimed": claimed, "correct": claimed & truth}
    return {name: where.sum(dim=(0, 2, 3)) for name, where in counts.items()}


@torch.no_grad()
def label_counts(labels: Tensor, classes: int) -> dict[str, Tensor]:
    """ "label_area", (K,): the positions of each of the K ``classes`` in labels (B, h, w), as for quality_counts."""
    return {"label_area": _one_hot(labels, classes).sum(dim=(0, 2, 3))}


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, K, h, w) bool of integer labels (B, h, w); all False where the label is no class."""
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device).view(1, -1, 1, 1)

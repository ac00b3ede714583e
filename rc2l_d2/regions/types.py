"""The value types that carry everything between student, teacher and losses.

B images, N queries, K classes, C feature channels, h x w positions at the stride of the pixel decoder (4).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """What a region predictor says about a batch: per query a class and a mask, and the per-pixel features.

    Attributes:
        class_logits: (B, N, K+1); the last entry is "no object".
        mask_logits: (B, N, h, w).
        features: (B, C, h, w), the per-pixel features F of the pixel decoder (the paper's region features are
            mask-pooled from them).
        auxiliary: ``(class_logits, mask_logits)`` of every earlier decoder layer, first layer first, of the images
            with labels, which come first; empty without deep supervision.
    """

    class_logits: Tensor
    mask_logits: Tensor
    features: Tensor
    auxiliary: tuple[tuple[Tensor, Tensor], ...] = ()

    def images(self, start: int, stop: int) -> Regions:
        """The regions of images ``start`` to ``stop - 1`` of the batch (views, no copy)."""
        return Regions(
            self.class_logits[start:stop],
            self.mask_logits[start:stop],
            self.features[start:stop],
            tuple((classes[start:stop], masks[start:stop]) for classes, masks in self.auxiliary),
        )


@dataclass(frozen=True)
class TeacherView:
    """What the teacher says about the weak views, position by position; what mixing acts on.

    Attributes:
        probabilities: (B, K, h, w), s', the normalised semantic map: non-negative, sums to one over the classes.
        features: (B, C, h, w), F'.
        inside: (B, h, w) bool, False on padding.
        chosen: (B, h, w) bool, the positions inside that the teacher is confident enough of; None before it was asked
            (:func:`rc2l_d2.regions.select`), for all of them.
    """

    probabilities: Tensor
    features: Tensor
    inside: Tensor
    chosen: Tensor | None = None


@dataclass(frozen=True)
class Selection:
    """Which of the teacher's pseudo labels are learned from.

    Attributes:
        unit: what is taken or left: "region", by its mean confidence, or "pixel", each position by its own.
        floor: probability that the confidence has to exceed.
        ratio: fraction of the class's mean confidence kappa that it has to exceed too.
    """

    unit: str
    floor: float
    ratio: float


@dataclass(frozen=True)
class PseudoRegions:
    """The teacher's regions as *class slots*: one slot a class, so every shape is fixed and nothing is ragged.

    Attributes:
        masks: (B, K, h, w), 0 or 1 in the dtype of the teacher's probabilities: M_c.
        present: (B, K) bool, whether slot c holds a region.
        valid: (B, h, w) bool, positions that lie in some present region.
        features: (B, K, C), r'_c, mean teacher feature over M_c; zero where the slot is empty.
        weights: (B, K), omega_c in [0, 1], mean confidence over all positions labelled c; zero where absent.
    """

    masks: Tensor
    present: Tensor
    valid: Tensor
    features: Tensor
    weights: Tensor

    def detach(self) -> PseudoRegions:
        """Stop-gradient on the teacher: the same regions, through which nothing flows back."""
        return PseudoRegions(
            self.masks.detach(), self.present, self.valid, self.features.detach(), self.weights.detach()
        )

"""What the supervised losses share: labels, and matching to pseudo regions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..regions import PseudoRegions, Regions, match_by_class


class Criterion(nn.Module, ABC):
    """The supervised losses of a model, and the match of its queries to pseudo regions.

    Our reading: all losses leave out pixels without a label (the ignore value, also on padding, and any value outside
    0, ..., K-1). MaskFormer counts them as outside of every mask. Without such pixels both are equal.

    Attributes:
        loss_weights: weight of each loss by its name in the log.
    """

    loss_weights: dict[str, float]

    def __init__(self, num_classes: int, *, ignore_value: int = 255):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_value = ignore_value

    @abstractmethod
    def forward(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of a batch by name, float32 scalars, already multiplied by their weights.

        Without any labelled pixel they are zero (MaskFormer's class loss: finite) and still have a graph.

        Args:
            regions: of B images; the layers in ``regions.auxiliary`` get losses too.
            labels: (B, H, W), integer, at the size of the images.
        """

    def match_regions(self, regions: Regions, pseudo: PseudoRegions) -> Tensor:
        """Match queries to pseudo regions: (B, N, K), float32, 1 for matched pairs, 0 elsewhere.

        By class, unless a subclass assigns other pairs.
        """
        return match_by_class(pseudo.present)

    def valid(self, labels: Tensor) -> Tensor:
        """Return where ``labels`` are classes, bool."""
        return (labels != self.ignore_value) & (labels >= 0) & (labels < self.num_classes)

"""What the supervised losses share: labels, matching to pseudo regions, the class loss of queries, the layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..regions import PseudoRegions, Regions, match_by_class, mean_over_ranks

# Focal loss: weight of pixels inside the region; the exponent is 2 (MaskFormer's values).
FOCAL_ALPHA = 0.25


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

        Without any labelled pixel they are zero (a class loss: finite) and still have a graph.

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


class QueryCriterion(Criterion):
    """MaskFormer's supervised loss: a class loss for each query, focal and Dice loss for matched queries.

    An image has one target for each class in its labels: the mask of that class. A subclass matches queries to targets.
    :meth:`forward` returns ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer and the same with suffix
    ``_0``, ``_1``, ... of the earlier ones. Mask losses are sums over matched pairs, divided by the mean number of
    targets per rank.

    Buffers:
        empty_weight: (K+1,), class weights of the classification loss; the last is that of "no object".
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_value: int = 255,
        no_object_weight: float = 0.1,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
    ):
        super().__init__(num_classes, ignore_value=ignore_value)
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.loss_weights = {"loss_ce": 1.0, "loss_mask": mask_weight, "loss_dice": dice_weight}
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def present(self, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the classes in the labels (B, H, W) of each image, (B, K) bool."""
        slots = labels.long().masked_fill(~valid, self.num_classes).flatten(1)
        present = torch.zeros(len(labels), self.num_classes + 1, dtype=torch.bool, device=labels.device)
        return present.scatter_(1, slots, True)[:, :-1]

    def class_loss(self, class_logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy over all queries of all ranks.

        Args:
            class_logits: (B, N, K+1).
            target: (B, N) long, the class of each query; K, "no object", for an unmatched one.
        """
        loss = F.cross_entropy(class_logits.float().flatten(0, 1), target.flatten(), self.empty_weight, reduction="sum")
        # The sum of weights is zero if the "no object" weight is and no query is matched.
        return loss / mean_over_ranks(self.empty_weight[target].sum()).clamp(min=1e-6)


def layers_with_suffixes(regions: Regions) -> list[tuple[str, Tensor, Tensor]]:
    """Return (suffix of the loss names, class logits, mask logits) of each decoder layer, first layer first."""
    earlier = [(f"_{index}", *layer) for index, layer in enumerate(regions.auxiliary)]
    return [*earlier, ("", regions.class_logits, regions.mask_logits)]

"""The class-query predictor: for each class one query with a learned mask embedding, and its class in the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import CfgNode, ShapeSpec, configurable
from ..regions import competing
from .pixel_decoder import selected_features

# Class logit of query k for a class other than k. It is finite, so that its product with 0 is not NaN.
_NEVER = -1e4


class ClassProbe(nn.Linear):
    """A linear layer on fixed features: it starts at zero and learns at ``rate_factor`` times the learning rate.

    Random weights would stay where a few labelled images say nothing, and add noise to the classes of other images. At
    the rate of the convolutions a few hundred iterations are too few for it.
    """

    rate_factor = 20.0

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ClassQueryPredictor(nn.Module):
    """Predict a mask and a class for each of K class queries (our reading, see docs/method.md).

    The mask embedding of query k is a learned vector, the same for all images, and the masks of an image compete for
    its pixels. The class of query k is k or "no object". It depends on the image: it is predicted from the mean of the
    two coarsest backbone maps.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], mask_dim: int, *, num_classes: int):
        """
        Args:
            input_shape: backbone maps; the two of the largest strides are used.
            mask_dim: C, channels of the per-pixel features.
            num_classes: K.
        """
        super().__init__()
        self.num_queries = num_classes
        self.coarse = sorted(input_shape, key=lambda name: input_shape[name].stride)[-2:]
        channels = sum(input_shape[name].channels for name in self.coarse)
        self.mask_embed = nn.Linear(mask_dim, num_classes)
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.class_embed = ClassProbe(channels, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], mask_dim: int) -> dict:
        return {
            "input_shape": selected_features(cfg, input_shape),
            "mask_dim": mask_dim,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def forward(
        self, features: dict[str, Tensor], pixel_features: Tensor, supervised: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """
        Args:
            features: backbone maps by name.
            pixel_features: (B, C, h, w).
            supervised: not used, since there is one layer.

        Returns:
            ``(class_logits (B, K, K+1), mask_logits (B, K, h, w))`` of the one layer.
        """
        embedding, bias = self.mask_embed.weight[..., None, None], self.mask_embed.bias
        mask_logits = competing(F.conv2d(pixel_features, embedding, bias))
        # Without detach(), the backbone would learn the classes of each labelled image by heart.
        pooled = torch.cat([features[name].detach().mean(dim=(2, 3)) for name in self.coarse], dim=1)
        own_class = self.class_embed(self.norm(pooled))
        diagonal = torch.eye(self.num_queries, dtype=torch.bool, device=own_class.device)
        class_logits = torch.where(diagonal, own_class.unsqueeze(2), _NEVER)
        return [(F.pad(class_logits, (0, 1)), mask_logits)]  # The logit of "no object" is 0.

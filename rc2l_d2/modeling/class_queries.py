"""The class-query predictor: for each class one query, with a learned mask embedding and the class of its region."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import CfgNode, ShapeSpec, configurable
from ..regions import competing, masked_average_pool
from .pixel_decoder import selected_features

# Logit of "no object", which a class query never is: without an object its mask is empty. It is finite, so that its
# product with 0 is not NaN.
_NEVER = -1e4


class ClassProbe(nn.Linear):
    """A linear layer on fixed features: it starts at zero and learns at ``rate_factor`` times the learning rate.

    Random weights would stay where a few labelled images say nothing, and add noise to the classes of other images. At
    the rate of the convolutions a few hundred iterations are too few for it.
    """

    rate_factor = 4.0

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ClassQueryPredictor(nn.Module):
    """Predict a mask and class probabilities for each of K class queries (our reading, see docs/method.md).

    The mask embedding of query k is a learned vector, the same for all images, and the masks of an image compete for
    its pixels: this is a classifier of pixels, and the mask of query k is what looks like class k pixel by pixel. The
    class of query k is then predicted from the region as a whole, that is from the means of the two coarsest backbone
    maps in its mask. It need not be k: a cow whose pixels look like a sheep's is still a cow as a whole.
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
        # Without gradient: backbone and masks would learn the classes of each labelled image by heart.
        masks = mask_logits.detach().sigmoid()
        coarse = [features[name].detach() for name in self.coarse]
        pooled = [masked_average_pool(x, F.interpolate(masks, size=x.shape[-2:], mode="area")) for x in coarse]
        class_logits = self.class_embed(self.norm(torch.cat(pooled, dim=2)))
        return [(F.pad(class_logits, (0, 1), value=_NEVER), mask_logits)]

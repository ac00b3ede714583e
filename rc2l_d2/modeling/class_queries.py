"""The class-query predictor: for each class one query, with a learned mask embedding and the class of its region."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import CfgNode, ShapeSpec, configurable
from ..regions import competing, masked_average_pool
from .backbones.timm_backbone import BODY, STAGE
from .pixel_decoder import selected_features
from .region_classifier import RegionClassifier

# Logit of "no object", which a class query never is: without an object its mask is empty. It is finite, so that its
# product with 0 is not NaN.
_NEVER = -1e4


class ClassProbe(nn.Linear):
    """A linear layer on detached features: it starts at zero and learns at ``rate_factor`` times the learning rate.

    Random initial weights keep their value in directions in which a few labelled images do not vary, and add noise to
    the classes of other images. At the rate of the convolutions a few hundred iterations are too few for it.
    """

    rate_factor = 2.0

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ClassQueryPredictor(nn.Module):
    """Predict a mask and class probabilities for each of K class queries (our reading, see docs/method.md).

    The mask embedding of query k is a learned vector, the same for all images, and the masks of an image compete for
    its pixels: they classify single pixels. The class of query k is predicted from its region as a whole, from the
    means of the backbone maps of the two largest strides (of a plain ViT: of its last block) in its mask. It need not
    be k: a region whose pixels resemble class k may have the mean of another class.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        mask_dim: int,
        *,
        num_classes: int,
        class_prior: float,
        class_dropout: float = 0.0,
        class_means: float = 0.0,
    ):
        """
        Args:
            input_shape: backbone maps; those of the two largest strides are used.
            mask_dim: C, channels of the per-pixel features.
            num_classes: K.
            class_prior: added to the logit of class k for query k.
            class_dropout: fraction of a region's features that are dropped in training.
            class_means: factor of the similarities of a :class:`RegionClassifier`, which predicts the classes outside
                of training once it was fitted; 0: there is none.
        """
        super().__init__()
        self.num_queries = num_classes
        strides = sorted({shape.stride for shape in input_shape.values()})[-2:]
        self.coarse = [name for stride in strides for name in input_shape if input_shape[name].stride == stride]
        channels = sum(input_shape[name].channels for name in self.coarse)
        self.mask_embed = nn.Linear(mask_dim, num_classes)
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.dropout = nn.Dropout(class_dropout)
        self.class_probe = ClassProbe(channels, num_classes)
        self.class_prior = class_prior
        self.classifier = RegionClassifier(num_classes, channels, class_means) if class_means else None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], mask_dim: int) -> dict:
        body = {BODY: input_shape[BODY]} if BODY in input_shape else {}
        stages = {name: shape for name, shape in input_shape.items() if name.startswith(STAGE)}
        return {
            "input_shape": body or selected_features(cfg, input_shape) | stages,
            "mask_dim": mask_dim,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "class_prior": cfg.MODEL.MASK_FORMER.CLASS_PRIOR,
            "class_dropout": cfg.MODEL.MASK_FORMER.CLASS_DROPOUT,
            "class_means": cfg.MODEL.MASK_FORMER.CLASS_MEANS,
        }

    def forward(
        self, features: dict[str, Tensor], pixel_features: Tensor, supervised: int | None = None
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """
        Args:
            features: backbone maps by name.
            pixel_features: (B, C, h, w).
            supervised: not used, since there is one layer.

        Returns:
            ``(class_logits (B, K, K+1), mask_logits (B, K, h, w))`` of the one layer, and the features of the regions,
            (B, K, C), that the classes are predicted from.
        """
        embedding, bias = self.mask_embed.weight[..., None, None], self.mask_embed.bias
        mask_logits = competing(F.conv2d(pixel_features, embedding, bias))
        # Without gradient: backbone and masks would overfit the classes of the labelled images.
        masks = mask_logits.detach().sigmoid()
        coarse = [features[name].detach() for name in self.coarse]
        pooled = [masked_average_pool(x, F.interpolate(masks, size=x.shape[-2:], mode="area")) for x in coarse]
        region_features = self.norm(torch.cat(pooled, dim=2))
        class_logits = self.class_probe(self.dropout(region_features))
        if self.classifier is not None and not self.training:
            class_logits = torch.where(self.classifier.fitted > 0, self.classifier(region_features), class_logits)
        class_logits = class_logits + self.class_prior * torch.eye(self.num_queries, device=class_logits.device)
        return [(F.pad(class_logits, (0, 1), value=_NEVER), mask_logits)], region_features

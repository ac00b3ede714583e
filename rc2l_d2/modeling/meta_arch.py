"""The region predictor as a Detectron2 model, trained on labels only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..host import (
    META_ARCH_REGISTRY,
    Backbone,
    CfgNode,
    ImageList,
    ShapeSpec,
    build_backbone,
    build_sem_seg_head,
    configurable,
)
from ..regions.semantic import semantic_probabilities, semantic_scores
from ..regions.types import Regions
from .class_criterion import ClassCriterion
from .criterion import Criterion
from .micro_batches import regions_in_micro_batches
from .pixel_decoder import FINEST_STRIDE
from .set_criterion import SetCriterion


@META_ARCH_REGISTRY.register()
class RegionSegmentor(nn.Module):
    """Backbone, region head and criterion: the supervised baseline, and the model that RC2L trains.

    Attributes:
        uses_unlabeled: whether training also uses unlabelled images.
        fits_unlabeled_regions: whether the classes of regions are fitted to those of unlabelled images too.
        per_pixel: whether it has a per-pixel head instead of the region head that the configuration describes.
    """

    uses_unlabeled = False
    per_pixel = False
    fits_unlabeled_regions = False
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: Criterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        micro_batch: int = 0,
        feature_dropout: float = 0.0,
    ):
        """
        Args:
            backbone: maps images to named feature maps.
            sem_seg_head: maps these to :class:`Regions`.
            criterion: the supervised losses.
            pixel_mean, pixel_std: per channel, in the order of INPUT.FORMAT.
            size_divisibility: images are padded to a multiple of it, itself a multiple of the masks' stride. The
                backbone's own, or that stride, is used where this is not positive or not a multiple of the backbone's
                (the patches of a ViT).
            micro_batch: images in a micro-batch, see :mod:`.micro_batches`; 0: all.
            feature_dropout: fraction of the channels of a backbone map that are dropped, see :meth:`regions`.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        own = getattr(backbone, "size_divisibility", 0)
        if size_divisibility <= 0 or (own and size_divisibility % own):
            size_divisibility = own or FINEST_STRIDE
        if size_divisibility % FINEST_STRIDE:
            raise InputError(
                f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY is {size_divisibility}; give a multiple of {FINEST_STRIDE}, the "
                f"stride of the masks."
            )
        self.size_divisibility = size_divisibility
        self.micro_batch = micro_batch
        self.feature_dropout = feature_dropout
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": cls.build_head(cfg, backbone.output_shape()),
            "criterion": cls.build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "micro_batch": cfg.SOLVER.IMS_PER_PASS,
            "feature_dropout": cfg.MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT,
        }

    @classmethod
    def build_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
        """Build the head that predicts :class:`Regions` from backbone maps."""
        return build_sem_seg_head(cfg, input_shape)

    @classmethod
    def build_criterion(cls, cfg: CfgNode) -> Criterion:
        """Build the supervised losses."""
        head, keys = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
        if keys.MATCHING == "class":
            return ClassCriterion(head.NUM_CLASSES, ignore_value=head.IGNORE_VALUE)
        return SetCriterion(
            head.NUM_CLASSES,
            ignore_value=head.IGNORE_VALUE,
            no_object_weight=keys.NO_OBJECT_WEIGHT,
            mask_weight=keys.MASK_WEIGHT,
            dice_weight=keys.DICE_WEIGHT,
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def preprocess(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise images (3, H_i, W_i) of any number type and pad them with zeros (the mean colour) to one batch."""
        normalised = [(image.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(normalised, self.size_divisibility)

    def preprocess_labels(self, labels: Sequence[Tensor]) -> Tensor:
        """Pad labels (H_i, W_i) with the ignore value to one batch (B, H, W), of the size of the images."""
        on_device = [label.to(self.device, non_blocking=True) for label in labels]
        return ImageList.from_tensors(on_device, self.size_divisibility, self.criterion.ignore_value).tensor

    def regions(self, images: Tensor, supervised: int | None = None, dropped: int = 0) -> Regions:
        """Predict the regions of normalised images (B, 3, H, W); H and W multiples of ``size_divisibility``.

        In training, ``auxiliary`` covers only the first ``supervised`` images (None: all), and the backbone maps of the
        last ``dropped`` images lose channels (UniMatch's feature perturbation).
        """
        supervised = len(images) if supervised is None else supervised
        if 0 < self.micro_batch < len(images):
            return regions_in_micro_batches(self._regions, images, supervised, dropped, self.micro_batch, self)
        return self._regions(images, supervised, dropped)

    def _regions(self, images: Tensor, supervised: int, dropped: int) -> Regions:
        features = self.backbone(images)
        if dropped:
            kept = len(images) - dropped
            drop = partial(F.dropout2d, p=self.feature_dropout)
            features = {name: torch.cat([x[:kept], drop(x[kept:])]) for name, x in features.items()}
        return self.sem_seg_head(features, supervised)

    def supervised_losses(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of ``regions`` against labels (B, H, W), see :class:`Criterion`."""
        return self.criterion(regions, labels)

    def semantic_map(self, regions: Regions) -> Tensor:
        """Return the semantic map s_c (B, K, h, w), normalised: non-negative, at most one in sum over the classes."""
        return semantic_probabilities(regions.class_logits, regions.mask_logits)

    def scores_at(self, regions: Regions, size: Sequence[int]) -> Tensor:
        """Return semantic scores (B, K, H, W) of mask logits resized to ``size`` (MaskFormer's inference)."""
        return semantic_scores(regions.class_logits.float(), resized(regions.mask_logits, size))

    def forward(
        self, inputs: Tensor | list[dict], supervised: int | None = None, dropped: int = 0
    ) -> Regions | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Predict the regions of a tensor (the trainer's call), or process samples in Detectron2's format.

        Args:
            inputs: a tensor of normalised images (B, 3, H, W), see :meth:`regions`. Or a list of samples with "image"
                (3, h, w); in training also "sem_seg" (h, w); in evaluation optionally "height" and "width", the output
                size (default: the size of the image).
            supervised, dropped: see :meth:`regions`; only for a tensor.

        Returns:
            For a tensor: its regions. For samples in training: the losses by name. For samples in evaluation:
            ``{"sem_seg": (K, height, width)}`` of each image.
        """
        if isinstance(inputs, Tensor):
            return self.regions(inputs, supervised, dropped)
        images = self.preprocess([sample["image"] for sample in inputs])
        regions = self.regions(images.tensor)
        if self.training:
            labels = self.preprocess_labels([sample["sem_seg"] for sample in inputs])
            return self.supervised_losses(regions, labels)
        results = []
        for index, (sample, (height, width)) in enumerate(zip(inputs, images.image_sizes, strict=True)):
            # One image at a time, since N masks at full size need much memory.
            scores = self.scores_at(regions.images(index, index + 1), images.tensor.shape[-2:])[..., :height, :width]
            size = (sample.get("height", height), sample.get("width", width))
            if size != (height, width):
                scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
            results.append({"sem_seg": scores[0]})
        return results


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits (B, C, h, w) resized bilinearly to ``size``, float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)

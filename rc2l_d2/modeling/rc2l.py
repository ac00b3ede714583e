"""RC2L: the region predictor trained on labelled images and on a teacher's pseudo regions, in one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host import META_ARCH_REGISTRY, CfgNode, comm, configurable
from ..regions import (
    PseudoRegions,
    Regions,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from .meta_arch import RegionSegmentor


def gather_images(x: Tensor) -> Tensor:
    """``x`` (B, ...) of all processes, one after the other, (processes * B, ...), without gradient."""
    if comm.get_world_size() == 1:
        return x
    gathered = [torch.empty_like(x) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)


@META_ARCH_REGISTRY.register()
class RC2L(RegionSegmentor):
    """A :class:`RegionSegmentor` that also learns from pseudo regions.

    The teacher is not part of it: it is an exponential moving average of this model, kept by the trainer, so that the
    weights are those of a plain region predictor.
    """

    uses_unlabeled = True

    @configurable
    def __init__(
        self,
        *,
        rmc_weight: float,
        rfc_weight: float,
        rcc_weight: float,
        smc_weight: float,
        mask_temperature: float,
        feature_temperature: float,
        **segmentor,
    ):
        """
        Args:
            rmc_weight, rfc_weight, rcc_weight, smc_weight: weight of each loss; 0 leaves it out altogether.
            mask_temperature: of the Dice similarities in RMC and RCC.
            feature_temperature: of the cosine similarities in RFC.
            segmentor: the arguments of :class:`RegionSegmentor`.
        """
        super().__init__(**segmentor)
        self.loss_weights = {
            "loss_rmc": rmc_weight,
            "loss_rfc": rfc_weight,
            "loss_rcc": rcc_weight,
            "loss_smc": smc_weight,
        }
        self.mask_temperature = mask_temperature
        self.feature_temperature = feature_temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        method = cfg.MODEL.RC2L
        return {
            **super().from_config(cfg),
            "rmc_weight": method.LOSS_WEIGHT * method.RMC_WEIGHT,
            "rfc_weight": method.LOSS_WEIGHT * method.RFC_WEIGHT,
            "rcc_weight": method.LOSS_WEIGHT * method.RCC_WEIGHT,
            "smc_weight": method.LOSS_WEIGHT * method.SMC_WEIGHT,
            "mask_temperature": method.MASK_TEMPERATURE,
            "feature_temperature": method.FEATURE_TEMPERATURE,
        }

    def region_losses(self, regions: Regions, pseudo: PseudoRegions) -> dict[str, Tensor]:
        """RMC, RFC, RCC and SMC of the student's ``regions`` against ``pseudo``, each times its weight."""

        def feature_contrast() -> Tensor:
            keys, present = gather_images(pseudo.features), gather_images(pseudo.present)
            return region_feature_contrastive(regions, pseudo, self.feature_temperature, keys, present)

        losses = {
            "loss_rmc": lambda: region_mask_contrastive(regions, pseudo, self.mask_temperature),
            "loss_rfc": feature_contrast,
            "loss_rcc": lambda: region_class_consistency(regions, pseudo, self.mask_temperature),
            "loss_smc": lambda: semantic_mask_consistency(regions, pseudo),
        }
        return {name: weight * losses[name]() for name, weight in self.loss_weights.items() if weight > 0}

    def forward(
        self,
        batched_inputs: list[dict],
        strong: Tensor | None = None,
        pseudo: PseudoRegions | None = None,
        ramp: float = 1.0,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training, the losses of both streams from one pass of the student; in evaluation, as the parent's.

        Args:
            batched_inputs: labelled samples (training) or test samples (evaluation).
            strong: (B, 3, H, W), normalised strong views of unlabelled images, mixed; of the labelled images' size.
            pseudo: the teacher's regions of the same views. None of both before the end of burn-in.
            ramp: factor on the region losses, 0 to 1.
        """
        if not self.training or strong is None:
            return super().forward(batched_inputs)
        images = self.preprocess([sample["image"] for sample in batched_inputs]).tensor
        labels = self.preprocess_labels([sample["sem_seg"] for sample in batched_inputs])
        regions = self.regions(torch.cat([images, strong]))
        count = len(images)
        losses = self.supervised_losses(regions.images(0, count), labels)
        region_losses = self.region_losses(regions.images(count, count + len(strong)), pseudo)
        return {**losses, **{name: ramp * loss for name, loss in region_losses.items()}}

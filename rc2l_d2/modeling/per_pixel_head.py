"""DeepLabV3+'s head: the per-pixel yardstick of the region predictor."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..host import CfgNode, Conv2d, ShapeSpec, configurable, get_norm
from ..regions.types import Regions

# Channels of the low-level features. DeepLabV3+ has 48, which the 32 groups of group normalisation do not divide.
_LOW_LEVEL_CHANNELS = 64
# Class logit of query k for class k: its class is certain.
_CERTAIN = 20.0


def _conv(in_channels: int, channels: int, size: int, norm: str, dilation: int = 1) -> Conv2d:
    conv = Conv2d(
        in_channels, channels, kernel_size=size, padding=dilation * (size // 2), dilation=dilation,
        bias=norm == "", norm=get_norm(norm, channels), activation=F.relu,
    )  # fmt: skip
    weight_init.c2_msra_fill(conv)
    return conv


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: convolutions of several dilations and the image's mean, side by side."""

    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int], norm: str):
        super().__init__()
        sizes = [(1, 1), *((3, dilation) for dilation in dilations)]
        self.branches = nn.ModuleList(_conv(in_channels, channels, size, norm, dilation) for size, dilation in sizes)
        self.pooled = _conv(in_channels, channels, 1, "")  # A norm of one pixel would erase it.
        self.project = _conv(channels * (len(sizes) + 1), channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h, w)."""
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class PerPixelHead(nn.Module):
    """DeepLabV3+ (Chen et al., ECCV 2018): ASPP on the coarsest map, fused with the finest one.

    It returns :class:`Regions` with one region for each class, whose class is certain and whose mask logits are the
    class logits of the pixels, so that training and evaluation treat it as any region predictor.
    """

    @configurable
    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, num_classes: int, channels: int, dilations: Sequence[int],
        dropout: float, norm: str,
    ):  # fmt: skip
        """
        Args:
            input_shape: the backbone maps to use; the one of the largest and the one of the smallest stride are used.
            num_classes: K.
            channels: width of ASPP and decoder.
            dilations: of the 3x3 convolutions of ASPP, in pixels of the coarsest map.
            dropout: rate of the dropout after ASPP.
            norm: normalisation of the convolutions, "" for none.
        """
        super().__init__()
        self.num_classes = num_classes
        ordered = sorted(input_shape.items(), key=lambda item: item[1].stride)
        (self.low_level, low), (self.high_level, high) = ordered[0], ordered[-1]
        self.aspp = ASPP(high.channels, channels, dilations, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.project = _conv(low.channels, _LOW_LEVEL_CHANNELS, 1, norm)
        self.fuse = nn.Sequential(
            _conv(channels + _LOW_LEVEL_CHANNELS, channels, 3, norm), _conv(channels, channels, 3, norm)
        )
        self.predictor = Conv2d(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, 0, 0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        missing = [name for name in keys.IN_FEATURES if name not in input_shape]
        if missing or len(keys.IN_FEATURES) < 2:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {list(keys.IN_FEATURES)}, but the backbone gives "
                f"{sorted(input_shape)}; name at least two of these."
            )
        return {
            "input_shape": {name: input_shape[name] for name in keys.IN_FEATURES},
            "num_classes": keys.NUM_CLASSES,
            "channels": keys.CONVS_DIM,
            "dilations": keys.ASPP_DILATIONS,
            "dropout": keys.ASPP_DROPOUT,
            "norm": keys.NORM,
        }

    def forward(self, features: dict[str, Tensor], supervised: int | None = None) -> Regions:
        """Predict regions from named backbone maps; there are no auxiliary layers."""
        low = self.project(features[self.low_level])
        high = self.dropout(self.aspp(features[self.high_level]))
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        fused = self.fuse(torch.cat([high, low], dim=1))
        logits = self.predictor(fused)
        certain = _CERTAIN * torch.eye(self.num_classes, self.num_classes + 1, dtype=logits.dtype, device=logits.device)
        return Regions(certain.expand(len(logits), -1, -1), logits, fused)

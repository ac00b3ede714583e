"""DeepLabV3+'s decoder: context from dilated convolutions on the coarsest map, fused with the finest one."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import CfgNode, Conv2d, ShapeSpec, configurable, get_norm
from .pixel_decoder import check_width, selected_features

# Channels of the low-level features. DeepLabV3+ has 48, which the 32 groups of group normalisation do not divide.
_LOW_LEVEL_CHANNELS = 64


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


class ASPPDecoder(nn.Module):
    """ASPP and decoder of DeepLabV3+ (Chen et al., ECCV 2018), as a pixel decoder."""

    @configurable
    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, conv_dim: int, dilations: Sequence[int], dropout: float, norm: str,
    ):  # fmt: skip
        """
        Args:
            input_shape: backbone maps; those of the largest and of the smallest stride are used.
            conv_dim: width of ASPP and decoder, the channels of the features returned.
            dilations: of the 3x3 convolutions of ASPP, in pixels of the coarsest map.
            dropout: rate of the dropout after ASPP.
            norm: normalisation of the convolutions, "" for none.
        """
        super().__init__()
        check_width(conv_dim, norm)
        ordered = sorted(input_shape.items(), key=lambda item: item[1].stride)
        (self.low_level, low), (self.high_level, high) = ordered[0], ordered[-1]
        self.out_channels = conv_dim
        self.aspp = ASPP(high.channels, conv_dim, dilations, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.project = _conv(low.channels, _LOW_LEVEL_CHANNELS, 1, norm)
        self.fuse = nn.Sequential(
            _conv(conv_dim + _LOW_LEVEL_CHANNELS, conv_dim, 3, norm), _conv(conv_dim, conv_dim, 3, norm)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": selected_features(cfg, input_shape),
            "conv_dim": keys.CONVS_DIM,
            "dilations": keys.ASPP_DILATIONS,
            "dropout": keys.ASPP_DROPOUT,
            "norm": keys.NORM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return features (B, conv_dim, h, w) at the stride of the finest backbone map in ``features``."""
        low = self.project(features[self.low_level])
        high = self.dropout(self.aspp(features[self.high_level]))
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([high, low], dim=1))

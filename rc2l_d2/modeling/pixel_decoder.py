"""The FPN pixel decoder: from backbone maps to one map of per-pixel features."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..host import META_ARCH_REGISTRY, CfgNode, Conv2d, ShapeSpec, configurable, get_norm

# Stride of the mask grid.
FINEST_STRIDE = 4


class PixelDecoder(nn.Module):
    """A top-down feature pyramid that ends in the per-pixel features F (MaskFormer's pixel decoder without attention).

    The coarsest map passes ``layer_n`` (3x3). Each finer map i is projected by ``adapter_i`` (1x1), added to the
    resized result of the coarser level, and smoothed by ``layer_i`` (3x3). Parameter names are MaskFormer's.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, conv_dim: int, mask_dim: int, norm: str):
        """
        Args:
            input_shape: the backbone maps to use, in any order.
            conv_dim: channels inside the pyramid.
            mask_dim: C, channels of the features returned.
            norm: normalisation of the pyramid's convolutions, "" for none.
        """
        super().__init__()
        check_width(conv_dim, norm)
        ordered = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in ordered]
        self.out_channels = mask_dim
        for level, (_, shape) in enumerate(ordered, start=1):
            coarsest = level == len(ordered)
            if not coarsest:
                adapter = Conv2d(
                    shape.channels, conv_dim, kernel_size=1, bias=norm == "", norm=get_norm(norm, conv_dim)
                )
                weight_init.c2_xavier_fill(adapter)
                self.add_module(f"adapter_{level}", adapter)
            layer = Conv2d(
                shape.channels if coarsest else conv_dim,
                conv_dim,
                kernel_size=3,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, conv_dim),
                activation=F.relu,
            )
            weight_init.c2_xavier_fill(layer)
            self.add_module(f"layer_{level}", layer)
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        return {
            "input_shape": selected_features(cfg, input_shape),
            "conv_dim": cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return per-pixel features (B, C, h, w) at the stride of the finest backbone map in ``features``."""
        levels = len(self.in_features)
        pyramid = getattr(self, f"layer_{levels}")(features[self.in_features[-1]])
        for level in range(levels - 1, 0, -1):
            fine = getattr(self, f"adapter_{level}")(features[self.in_features[level - 1]])
            pyramid = fine + F.interpolate(pyramid, size=fine.shape[-2:], mode="nearest")
            pyramid = getattr(self, f"layer_{level}")(pyramid)
        return self.mask_features(pyramid)


def check_width(conv_dim: int, norm: str) -> None:
    """Raise InputError where the channels of a decoder do not fit its norm."""
    if norm == "GN" and conv_dim % 32:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {conv_dim}, but group normalisation needs a multiple of 32; "
            "change it or set MODEL.SEM_SEG_HEAD.NORM to another one."
        )


def selected_features(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """Return the backbone maps of MODEL.SEM_SEG_HEAD.IN_FEATURES.

    Raises:
        InputError: the backbone has no such map, or the finest is not at the stride of the masks.
    """
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    missing = [name for name in names if name not in input_shape]
    if missing or not names:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {list(names)}, but the backbone gives {sorted(input_shape)}; "
            "name some of these (and list them in MODEL.RESNETS.OUT_FEATURES)."
        )
    strides = {name: input_shape[name].stride for name in names}
    if None in strides.values() or min(strides.values()) != FINEST_STRIDE:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES names maps of strides {strides}, but the finest has to have stride "
            f"{FINEST_STRIDE}, that of the masks; name one that has, or choose a backbone that gives it."
        )
    return {name: input_shape[name] for name in names}


def is_per_pixel(cfg: CfgNode) -> bool:
    """Return whether the architecture has a per-pixel head, without queries."""
    name = cfg.MODEL.META_ARCHITECTURE  # may be one of another project, or none
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "per_pixel", False)


def maps_with_gradient(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> set[str]:
    """Return the maps that the head passes a gradient to: ASPP reads the finest and the coarsest alone."""
    head, keys = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    names = sorted((name for name in head.IN_FEATURES if name in shapes), key=lambda name: shapes[name].stride)
    if is_per_pixel(cfg) or head.PIXEL_DECODER_NAME == "ASPP":
        names = names[:1] + names[-1:]
    transformer = keys.MATCHING == "hungarian" and not is_per_pixel(cfg)
    return {*names, keys.TRANSFORMER_IN_FEATURE} if transformer else set(names)

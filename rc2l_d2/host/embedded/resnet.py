"""ResNet (He et al., 2016), 18 to 152 layers, with Detectron2's parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from .config import CfgNode
from .layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from .registry import BACKBONE_REGISTRY, Backbone

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(in_channels: int, out_channels: int, size: int, norm: str, stride: int = 1) -> Conv2d:
    """Return a convolution with "same" padding and norm, without bias."""
    norm_layer = get_norm(norm, out_channels)
    return Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False, norm=norm_layer)


def _initialise(*layers: Conv2d | None) -> None:
    for layer in filter(None, layers):
        weight_init.c2_msra_fill(layer)


class _Block(nn.Module):
    """Residual block: ``layers(x)`` plus a shortcut, which is a projection if the number of channels changes.

    Layers are created and initialised in Detectron2's order, so that one seed gives the same weights there.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride
        change = in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride) if change else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        _initialise(self.conv1, self.conv2, self.shortcut)

    def layers(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_Block):
    """1x1, 3x3 and 1x1 convolution (ResNet-50 and deeper); the first (MSRA) or second (torchvision) has the stride."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN", stride_in_1x1: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        width, (stride_1x1, stride_3x3) = out_channels // 4, (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(width, width, 3, norm, stride=stride_3x3)
        self.conv3 = _conv(width, out_channels, 1, norm)
        _initialise(self.conv1, self.conv2, self.conv3, self.shortcut)

    def layers(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))


class BasicStem(nn.Module):
    """7x7 convolution and max pooling, stride 4."""

    stride = 4

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        _initialise(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and the stages res2 to res5, up to the last one in ``out_features``.

    Args:
        stem: has ``stride`` and ``out_channels``.
        stages: the blocks of each stage, with ``stride`` and ``out_channels``.
        out_features: names of the returned maps: "stem", "res2" ... "res5"; AssertionError for others or none.
        freeze_at: 0 trains all, 1 fixes the stem, 2 also res2, and so on. Norms of fixed stages become FrozenBN.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[Sequence[nn.Module]], out_features: Sequence[str], freeze_at: int
    ) -> None:
        super().__init__()
        names = ["stem"] + [f"res{number}" for number in range(2, 2 + len(stages))]
        known = out_features and set(out_features) <= set(names)
        assert known, f"MODEL.RESNETS.OUT_FEATURES must be some of {names}, not {list(out_features)}"
        self._out_features = list(out_features)
        # Later layers would get no gradient, which DistributedDataParallel treats as an error.
        names = names[: 1 + max(names.index(name) for name in out_features)]
        self._shapes, stride = {}, 1
        for name, blocks in zip(names, [[stem], *stages], strict=False):
            self.add_module(name, stem if name == "stem" else nn.Sequential(*blocks))
            stride *= math.prod(block.stride for block in blocks)
            self._shapes[name] = ShapeSpec(channels=blocks[-1].out_channels, stride=stride)
        for name in names[: max(freeze_at, 0)]:
            FrozenBatchNorm2d.convert_frozen_batchnorm(getattr(self, name).requires_grad_(False))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps ``out_features`` of normalised images (B, C, H, W), at the strides of ``output_shape()``."""
        outputs = {}
        for name in self._shapes:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every returned map."""
        return {name: self._shapes[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Return the ResNet of ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``; AssertionError for bad values."""
    res = cfg.MODEL.RESNETS
    assert res.DEPTH in _BLOCKS_PER_STAGE, f"MODEL.RESNETS.DEPTH must be one of {list(_BLOCKS_PER_STAGE)}"
    channels, block, options = 256, BottleneckBlock, {"norm": res.NORM, "stride_in_1x1": res.STRIDE_IN_1X1}
    if res.DEPTH < 50:
        channels, block, options = 64, BasicBlock, {"norm": res.NORM}
    needed = f"MODEL.RESNETS.RES2_OUT_CHANNELS must be {channels} for a ResNet-{res.DEPTH}"
    assert res.RES2_OUT_CHANNELS == channels, needed
    stem = BasicStem(input_shape.channels, res.STEM_OUT_CHANNELS, res.NORM)
    stages, in_channels = [], res.STEM_OUT_CHANNELS
    for stage, num_blocks in enumerate(_BLOCKS_PER_STAGE[res.DEPTH]):
        out_channels = channels * 2**stage
        first = block(in_channels, out_channels, stride=1 if stage == 0 else 2, **options)
        others = [block(out_channels, out_channels, **options) for _ in range(num_blocks - 1)]
        stages.append([first, *others])
        in_channels = out_channels
    return ResNet(stem, stages, res.OUT_FEATURES, cfg.MODEL.BACKBONE.FREEZE_AT)

"""ResNet (He et al., 2016), 18 to 152 layers, with Detectron2's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .config import CfgNode
from .layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from .registry import BACKBONE_REGISTRY

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str, *, dilation: int = 1, **kwargs) -> Conv2d:
    """A convolution that keeps the size (but for its stride), without bias, with norm."""
    kwargs |= {"padding": dilation * (kernel_size // 2), "dilation": dilation, "bias": False}
    return Conv2d(in_channels, out_channels, kernel_size, norm=get_norm(norm, out_channels), **kwargs)


def _initialise(*layers: Conv2d | None) -> None:
    for layer in layers:
        if layer is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False
    FrozenBatchNorm2d.convert_frozen_batchnorm(module)


# In the blocks the layers are made and initialised in Detectron2's order: one seed then gives the same weights there.


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18, -34); a projection on the shortcut where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride
        change = in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride) if change else None
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        _initialise(self.conv1, self.conv2, self.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolution (ResNet-50 and deeper); a projection on the shortcut where the channels change."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride
        change, width = in_channels != out_channels, bottleneck_channels
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride) if change else None
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(width, width, 3, norm, stride=stride_3x3, groups=num_groups, dilation=dilation)
        self.conv3 = _conv(width, out_channels, 1, norm)
        _initialise(self.conv1, self.conv2, self.conv3, self.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicStem(nn.Module):
    """7x7 convolution and max pooling: stride 4."""

    stride = 4

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN") -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        _initialise(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(nn.Module):
    """A stem and the stages res2 to res5 (those that the output needs).

    Args:
        stem: has ``stride`` and ``out_channels``.
        stages: per stage its blocks, which have ``stride`` and ``out_channels``.
        out_features: names of the maps to return, of "stem", "res2" ... "res5".
        freeze_at: 0 trains all; 1 fixes the stem, 2 also res2, and so on. Norms of fixed stages become FrozenBN.

    Raises:
        AssertionError: no output, or a name that does not exist.
    """

    size_divisibility = 0

    def __init__(
        self, stem: nn.Module, stages: Sequence[Sequence[nn.Module]], out_features: Sequence[str], freeze_at: int = 0
    ) -> None:
        super().__init__()
        names = ["stem"] + [f"res{number}" for number in range(2, 2 + len(stages))]
        unknown = [name for name in out_features if name not in names]
        assert out_features and not unknown, f"OUT_FEATURES must be some of {names}, not {list(out_features)}"
        self._out_features = list(out_features)
        # Layers above the last output would get no gradient, which DistributedDataParallel takes as an error.
        self._names = names[: 1 + max(names.index(name) for name in out_features)]
        self._shapes = {"stem": ShapeSpec(channels=stem.out_channels, stride=stem.stride)}
        self.stem = stem
        stride = stem.stride
        for name, blocks in zip(self._names[1:], stages, strict=False):
            for block in blocks:
                stride *= block.stride
            self._shapes[name] = ShapeSpec(channels=blocks[-1].out_channels, stride=stride)
            self.add_module(name, nn.Sequential(*blocks))
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W), normalised, to the maps of ``out_features`` at the strides of ``output_shape()``."""
        outputs = {}
        for name in self._names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map that ``forward`` returns."""
        return {name: self._shapes[name] for name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Fix the first ``freeze_at`` of stem, res2, res3 ... and return self."""
        for name in self._names[: max(freeze_at, 0)]:
            _freeze(getattr(self, name))
        return self


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet as ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.BACKBONE.FREEZE_AT`` say.

    Raises:
        AssertionError: values that do not go together; the message names the key.
    """
    res = cfg.MODEL.RESNETS
    assert res.DEPTH in _BLOCKS_PER_STAGE, f"MODEL.RESNETS.DEPTH must be one of {list(_BLOCKS_PER_STAGE)}"
    assert res.RES5_DILATION in (1, 2), "MODEL.RESNETS.RES5_DILATION must be 1 or 2"
    basic = res.DEPTH < 50
    if basic:
        for key, needed in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
            assert res[key] == needed, f"MODEL.RESNETS.{key} must be {needed} for a ResNet-{res.DEPTH}"
    stem = BasicStem(input_shape.channels, res.STEM_OUT_CHANNELS, res.NORM)
    channels, stages = res.STEM_OUT_CHANNELS, []
    for stage, num_blocks in enumerate(_BLOCKS_PER_STAGE[res.DEPTH]):
        out_channels = res.RES2_OUT_CHANNELS * 2**stage
        dilation = res.RES5_DILATION if stage == 3 else 1
        stride = 1 if stage == 0 or dilation == 2 else 2
        blocks = []
        for index in range(num_blocks):
            common = {"stride": stride if index == 0 else 1, "norm": res.NORM}
            if basic:
                blocks.append(BasicBlock(channels, out_channels, **common))
            else:
                width = res.NUM_GROUPS * res.WIDTH_PER_GROUP * 2**stage
                blocks.append(
                    BottleneckBlock(
                        channels,
                        out_channels,
                        bottleneck_channels=width,
                        num_groups=res.NUM_GROUPS,
                        stride_in_1x1=res.STRIDE_IN_1X1,
                        dilation=dilation,
                        **common,
                    )
                )
            channels = out_channels
        stages.append(blocks)
    return ResNet(stem, stages, res.OUT_FEATURES, cfg.MODEL.BACKBONE.FREEZE_AT)

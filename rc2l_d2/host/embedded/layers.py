"""Convolution with norm and activation, and the norms that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from . import comm


@dataclass
class ShapeSpec:
    """Channels of a feature map, and its stride with respect to the image."""

    channels: int | None = None
    stride: int | None = None


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, followed by ``norm`` (a module, stored as ``.norm``) and ``activation`` (a function)."""

    def __init__(
        self, *args: Any, norm: nn.Module | None = None, activation: Callable | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine parameters: buffers with the names of BN.

    Loads BN checkpoints, and older ones with the statistics folded into ``weight`` and ``bias``.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # The backward pass of F.batch_norm would compute unused gradients of weight and bias.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
        state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        state_dict.pop(prefix + "num_batches_tracked", None)  # BN's counter, unused here
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BN and SyncBN in ``module`` in place; returns ``module``, or its replacement if it is one."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps).to(module.running_mean.device)
            frozen.load_state_dict(module.state_dict())
            return frozen
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the images of all ranks, on CPU too (torch's own refuses CPU tensors).

    The statistics are exactly those of the global batch, also if the ranks hold unequal numbers of pixels.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or comm.get_world_size() == 1 or input.device.type != "cpu":
            return super().forward(input)
        # The variance needs a second pass, because E[x^2] - E[x]^2 cancels. differentiable_all_reduce also sums the
        # gradients over ranks, so that each rank gets the gradient of the sum of all losses.
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        local = torch.cat([x.sum(dim=(0, 2, 3)), x.new_tensor([x.shape[0] * x.shape[2] * x.shape[3]])])
        total = differentiable_all_reduce(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean[:, None, None]
        var = differentiable_all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
            unbiased = var.detach() * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
}


def get_norm(norm: str | None, out_channels: int) -> nn.Module | None:
    """Return the norm layer for maps of ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "FrozenBN" or "GN" (32 groups), None or "" for none; KeyError for any other name.
    """
    if not norm:
        return None
    if norm not in _NORMS:
        raise KeyError(f"There is no norm '{norm}'; use {', '.join(_NORMS)}, or an empty string for none")
    return _NORMS[norm](out_channels)

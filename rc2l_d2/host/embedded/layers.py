"""Convolution with norm and activation, and the norms that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,  # on several ranks for GPUs only
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
}


def get_norm(norm: str | None, out_channels: int) -> nn.Module | None:
    """Return the norm layer with this name in ``_NORMS``, None for None or ""; KeyError for any other name."""
    if norm and norm not in _NORMS:
        raise KeyError(f"There is no norm '{norm}'; use {', '.join(_NORMS)}, or an empty string for none")
    return _NORMS[norm](out_channels) if norm else None

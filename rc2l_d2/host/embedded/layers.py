"""Convolution with norm and activation, and the norms that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class ShapeSpec:
    """What is known of a feature map's shape: channels, height, width, and its stride to the image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, then ``norm`` (a module, found as ``.norm``), then ``activation`` (a function)."""

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
    """Batch norm whose statistics and affine parameters are all fixed: buffers under the names that BN uses.

    Checkpoints that were made with BN load; so do old ones that hold ``weight`` and ``bias`` alone, with the statistics
    folded in.
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
        # F.batch_norm's backward would compute gradients for weight and bias, which nobody wants.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
        state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        state_dict.pop(prefix + "num_batches_tracked", None)  # BN's counter means nothing here
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BN and SyncBN below ``module``, in place; the result stands for ``module`` if it is one."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps).to(module.running_mean.device)
            frozen.load_state_dict(module.state_dict())
            return frozen
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the images of all processes, on CPU too (torch's own refuses CPU tensors).

    Statistics are those of the joint batch, exactly, also where the processes hold unequal numbers of positions. In
    evaluation mode and with a single process it is plain batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or world_size == 1 or input.device.type != "cpu":
            return super().forward(input)
        # Two passes, since E[x^2] - E[x]^2 cancels. differentiable_all_reduce sums gradients over processes as well, so
        # each process gets the derivative of the sum of all losses.
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


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """The norm layer for maps of ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), a function of the channel number, or None or "" for none;
            KeyError for any other name.
    """
    if not norm:
        return None
    if isinstance(norm, str) and norm not in _NORMS:
        raise KeyError(f"There is no norm '{norm}'; there are {', '.join(_NORMS)} and an empty string for none")
    return (_NORMS[norm] if isinstance(norm, str) else norm)(out_channels)

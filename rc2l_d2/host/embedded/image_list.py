"""A batch of images of different sizes in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class ImageList:
    """Images padded at the right and the bottom to one size.

    Attributes:
        tensor: (B, ..., H, W).
        image_sizes: (height, width) of each image before padding.
    """

    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Pad and stack images (..., Hi, Wi), at least one, that differ only in height and width.

        Args:
            size_divisibility: the common height and width are rounded up to a multiple of it; 0 and 1: no rounding.
            pad_value: value of the padding.
        """
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        step = max(size_divisibility, 1)
        height, width = (-(-max(size[axis] for size in sizes) // step) * step for axis in (0, 1))
        padding = [(0, width - w, 0, height - h) for h, w in sizes]
        padded = [F.pad(tensor, pad, value=pad_value) for tensor, pad in zip(tensors, padding, strict=True)]
        return ImageList(torch.stack(padded), sizes)

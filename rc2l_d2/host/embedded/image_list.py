"""A batch of images of different sizes as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class ImageList:
    """Images padded at the right and the bottom to one size.

    Attributes:
        tensor: (B, ..., H, W).
        image_sizes: per image its own (height, width) before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        """One image without its padding (a view)."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Put images (..., Hi, Wi), alike but for their height and width, into one batch.

        Args:
            tensors: at least one image; AssertionError otherwise, or if they differ in more than height and width.
            size_divisibility: the common height and width become multiples of it; 0 and 1: the largest image's.
            pad_value: what the padding is filled with.
        """
        assert len(tensors) > 0, "An ImageList needs at least one image"
        leading = tensors[0].shape[:-2]
        for tensor in tensors:
            assert tensor.shape[:-2] == leading, f"Images of one batch differ: {tuple(tensor.shape)}, {tuple(leading)}"
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        step = max(size_divisibility, 1)
        height, width = (-(-max(size[axis] for size in sizes) // step) * step for axis in (0, 1))
        batch = tensors[0].new_full((len(tensors), *leading, height, width), pad_value)
        for image, padded, (h, w) in zip(tensors, batch, sizes, strict=True):
            padded[..., :h, :w].copy_(image)
        return ImageList(batch, sizes)

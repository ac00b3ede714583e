"""From the single map of a plain ViT to maps of strides 4, 8, 16 and 32."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (4, 8, 16, 32)


class _LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SimpleFeaturePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al., ECCV 2022), for any patch size.

    One map at the stride p of the patches becomes four, at p/4, p/2, p and 2p, by transposed convolutions and pooling.
    With p = 16 these are strides 4, 8, 16 and 32. With another p they are resized to these strides (our reading).
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        """``patch``: p, in pixels."""
        super().__init__()
        self.resizes = patch != 16
        half, quarter = in_channels // 2, in_channels // 4
        self.levels = nn.ModuleList([
            nn.Sequential(
                nn.ConvTranspose2d(in_channels, half, 2, stride=2), _LayerNorm(half), nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2), _project(quarter, out_channels),
            ),
            nn.Sequential(nn.ConvTranspose2d(in_channels, half, 2, stride=2), _project(half, out_channels)),
            _project(in_channels, out_channels),
            nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), _project(in_channels, out_channels)),
        ])  # fmt: skip

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Return four maps (B, out_channels, ceil(H / s), ceil(W / s)), s = 4, 8, 16, 32.

        Args:
            x: (B, in_channels, h, w), the map of the patches.
            size: (H, W) of the image.
        """
        maps = []
        for level, stride in zip(self.levels, STRIDES, strict=True):
            y = level(x)
            if self.resizes:
                wanted = tuple((length + stride - 1) // stride for length in size)
                y = F.interpolate(y, size=wanted, mode="bilinear", align_corners=False)
            maps.append(y)
        return maps


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        _LayerNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        _LayerNorm(out_channels),
    )

"""Pictures of what the student is shown and what it makes of it, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..host import comm, get_event_storage
from ..regions import PseudoRegions, Regions

PICTURE_NAME = "unlabelled/weak-mixed-teacher-student"
# A picture shows so many images of a batch, their longer side this many pixels at most, this far apart.
_IMAGES, _SIDE, _GAP = 4, 256, 4
_OPACITY = 0.6  # of class colours


class TrainingPictures:
    """Every now and then puts a picture of a step's unlabelled images into the storage of events.

    Steps in which none is due cost nothing; one that is waits for the device. Nothing random is drawn.
    """

    def __init__(self, period: int, colors: Sequence[Sequence[int]], channels: str) -> None:
        """
        Args:
            period: iterations, 0 for no picture.
            colors: (r, g, b) of each of the K classes.
            channels: order of the images' channels, "RGB" or "BGR".
        """
        self.period = period
        self._colors = colors
        self._is_bgr = channels == "BGR"

    def due(self, iteration: int) -> bool:
        """Whether this process is to draw after ``iteration``, counted from 0."""
        return self.period > 0 and (iteration + 1) % self.period == 0 and comm.is_main_process()

    @torch.no_grad()
    def draw(self, weak: Sequence[Tensor], strong: Tensor, pseudo: PseudoRegions, regions: Regions) -> None:
        """Put the picture (:func:`draw_views`) into the storage of events.

        Args:
            weak: (3, H_i, W_i) each, 0 to 255, on any device: the weak views; H_i and W_i are at most H and W.
            strong: (B, 3, H, W), 0 to 255: the mixed strong views.
            pseudo: the teacher's regions of these; regions: the student's.
        """
        shown = slice(0, _IMAGES)
        views = torch.zeros_like(strong[shown])
        for view, image in zip(views, weak, strict=False):
            view[:, : image.shape[-2], : image.shape[-1]] = image.to(view.device)
        order = [2, 1, 0] if self._is_bgr else [0, 1, 2]
        picture = draw_views(
            views[:, order], strong[shown][:, order],
            pseudo.masks[shown].argmax(dim=1).where(pseudo.valid[shown], -1), *query_map(regions.images(0, _IMAGES)),
            torch.tensor(self._colors, device=strong.device),
        )  # fmt: skip
        get_event_storage().put_image(PICTURE_NAME, picture.cpu())


def query_map(regions: Regions) -> tuple[Tensor, Tensor]:
    """Which region each position belongs to, as MaskFormer's panoptic inference has it.

    Returns:
        (B, h, w) the query i with the largest max_c P_i(c) * sigma(m_i), and (B, h, w) its class.
    """
    scores, labels = regions.class_logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
    queries = (scores[..., None, None] * regions.mask_logits.float().sigmoid()).argmax(dim=1)
    return queries, labels.gather(1, queries.flatten(1)).view_as(queries)


def draw_views(weak: Tensor, mixed: Tensor, pseudo: Tensor, queries: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    """One row an image: weak view, mixed strong view, and over this the teacher's pseudo regions and the student's.

    Regions have the colour of their class, the student's a white border too. What is in no pseudo region stays as is.

    Args:
        weak, mixed: (B, 3, H, W), 0 to 255, RGB.
        pseudo: (B, h, w), class of the pseudo label; -1 where there is none.
        queries, labels: (B, h, w), of :func:`query_map`.
        colors: (K, 3), RGB.

    Returns:
        uint8, 3 x (B heights) x (4 widths) of an image, and white gaps between them.
    """
    factor = min(1.0, _SIDE / max(weak.shape[-2:]))
    size = [max(1, round(factor * length)) for length in weak.shape[-2:]]
    weak, mixed = (_resized(view.float(), size) for view in (weak, mixed))
    pseudo, queries, labels = (
        F.interpolate(index[:, None].float(), size=size, mode="nearest")[:, 0].long()
        for index in (pseudo, queries, labels)
    )
    taught = _colored(mixed, pseudo, colors).where(pseudo[:, None] >= 0, mixed)
    said = _colored(mixed, labels, colors).masked_fill(_borders(queries)[:, None], 255.0)
    rows = torch.cat([F.pad(view, (0, _GAP, 0, _GAP), value=255.0) for view in (weak, mixed, taught, said)], dim=-1)
    picture = torch.cat(list(rows), dim=-2)[:, :-_GAP, :-_GAP]
    return picture.round().clamp(0, 255).to(torch.uint8)


def _resized(images: Tensor, size: list[int]) -> Tensor:
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _colored(images: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    painted = colors.to(images.dtype)[labels.clamp_min(0)].movedim(-1, 1)
    return torch.lerp(images, painted, _OPACITY)


def _borders(queries: Tensor) -> Tensor:
    """(B, H, W) bool: where the neighbour to the right or below belongs to another region."""
    right = F.pad(queries[:, :, 1:] != queries[:, :, :-1], (0, 1))
    below = F.pad(queries[:, 1:] != queries[:, :-1], (0, 0, 0, 1))
    return right | below

"""Images of a training step for TensorBoard: views, pseudo regions and the student's regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.datasets.description import voc_color_map
from ..host import CfgNode, MetadataCatalog, comm, get_event_storage
from ..regions import PseudoRegions, Regions

IMAGE_NAME = "unlabelled/weak-mixed-teacher-student"
# Images of a batch that are drawn, pixels of their longer side at most, pixels between them, opacity of class colours.
_IMAGES, _SIDE, _GAP, _OPACITY = 4, 256, 4, 0.6


class TrainingImages:
    """Puts an image of a step's unlabelled images into the event storage every VIS_PERIOD iterations.

    Other steps cost nothing; a step with an image waits for the device. No random numbers are used.

    Attributes:
        class_names: K names.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """``cfg``: VIS_PERIOD (0: no image), INPUT.FORMAT and the classes of DATASETS.TRAIN are read."""
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else {}
        self.class_names = metadata.get("stuff_classes") or [str(c) for c in range(classes)]
        self.period = cfg.VIS_PERIOD
        self._colors = metadata.get("stuff_colors") or voc_color_map(classes)
        self._is_bgr = cfg.INPUT.FORMAT == "BGR"

    def due(self, iteration: int) -> bool:
        """Return whether this rank draws after ``iteration``, counted from 0."""
        return self.period > 0 and (iteration + 1) % self.period == 0 and comm.is_main_process()

    @torch.no_grad()
    def draw(self, weak: Sequence[Tensor], strong: Tensor, pseudo: PseudoRegions, regions: Regions) -> None:
        """Put the image of :func:`draw_views` into the event storage.

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
        image = draw_views(
            views[:, order], strong[shown][:, order],
            pseudo.masks[shown].argmax(dim=1).where(pseudo.valid[shown], -1), *query_map(regions.images(0, _IMAGES)),
            torch.tensor(self._colors, device=strong.device),
        )  # fmt: skip
        get_event_storage().put_image(IMAGE_NAME, image.cpu())


def query_map(regions: Regions) -> tuple[Tensor, Tensor]:
    """Return the region of each mask pixel, as in MaskFormer's panoptic inference.

    Returns:
        (B, h, w) the query i with the largest max_c P_i(c) * sigma(m_i), and (B, h, w) its class.
    """
    scores, labels = regions.class_logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
    queries = (scores[..., None, None] * regions.mask_logits.float().sigmoid()).argmax(dim=1)
    return queries, labels.gather(1, queries.flatten(1)).view_as(queries)


def draw_views(weak: Tensor, mixed: Tensor, pseudo: Tensor, queries: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    """Draw one row per image: weak view, mixed strong view, and over it the pseudo regions and the student's regions.

    Regions have the colour of their class, the student's a white border too. Other pixels stay as they are.

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
    pseudo_regions = _colored(mixed, pseudo, colors).where(pseudo[:, None] >= 0, mixed)
    student_regions = _colored(mixed, labels, colors).masked_fill(_borders(queries)[:, None], 255.0)
    rows = torch.cat(
        [F.pad(view, (0, _GAP, 0, _GAP), value=255.0) for view in (weak, mixed, pseudo_regions, student_regions)],
        dim=-1,
    )
    image = torch.cat(list(rows), dim=-2)[:, :-_GAP, :-_GAP]
    return image.round().clamp(0, 255).to(torch.uint8)


def _resized(images: Tensor, size: list[int]) -> Tensor:
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _colored(images: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    painted = colors.to(images.dtype)[labels.clamp_min(0)].movedim(-1, 1)
    return torch.lerp(images, painted, _OPACITY)


def _borders(queries: Tensor) -> Tensor:
    """Return (B, H, W) bool: the neighbour to the right or below belongs to another region."""
    right = F.pad(queries[:, :, 1:] != queries[:, :, :-1], (0, 1))
    below = F.pad(queries[:, 1:] != queries[:, :-1], (0, 0, 0, 1))
    return right | below

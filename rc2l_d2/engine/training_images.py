"""Images of a training step for TensorBoard: views, pseudo regions and the student's regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.labels.label_map import voc_color_map
from ..data.loading.transforms import resize_image, resize_label
from ..evaluation import overlay
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
        self._colors = np.array(metadata.get("stuff_colors") or voc_color_map(classes))
        self._order = [2, 1, 0] if cfg.INPUT.FORMAT == "BGR" else [0, 1, 2]

    def due(self, iteration: int) -> bool:
        """Return whether this rank draws after ``iteration``, counted from 0."""
        return self.period > 0 and (iteration + 1) % self.period == 0 and comm.is_main_process()

    @torch.no_grad()
    def draw(self, weak: Sequence[Tensor], strong: Tensor, pseudo: PseudoRegions, regions: Regions) -> None:
        """Put the rows of :func:`draw_row` into the event storage.

        Args:
            weak: (3, H_i, W_i) each, 0 to 255, on any device: the B weak views; H_i and W_i are at most H and W.
            strong: (B', 3, H, W), 0 to 255: the student's views, first a mixed strong view of each image.
            pseudo: the teacher's regions of these; regions: the student's.
        """
        pseudo_labels = pseudo.masks.argmax(dim=1).where(pseudo.valid, -1)
        queries, labels = query_map(regions.images(0, _IMAGES))
        rows = []
        for index, mixed in enumerate(strong[: min(_IMAGES, len(weak))]):
            view = torch.zeros_like(mixed)
            view[:, : weak[index].shape[-2], : weak[index].shape[-1]] = weak[index].to(view.device)
            images = [x[self._order].movedim(0, -1).round().clamp(0, 255).byte().cpu().numpy() for x in (view, mixed)]
            maps = [x[index].short().cpu().numpy() for x in (pseudo_labels, queries, labels)]
            rows.append(draw_row(images, maps, self._colors))
        image = np.concatenate(rows)[:-_GAP, :-_GAP]
        get_event_storage().put_image(IMAGE_NAME, torch.from_numpy(image).movedim(-1, 0))


def query_map(regions: Regions) -> tuple[Tensor, Tensor]:
    """Return the region of each mask pixel, as in MaskFormer's panoptic inference.

    Returns:
        (B, h, w) the query i with the largest max_c P_i(c) * sigma(m_i), and (B, h, w) its class.
    """
    scores, labels = regions.class_logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
    queries = (scores[..., None, None] * regions.mask_logits.float().sigmoid()).argmax(dim=1)
    return queries, labels.gather(1, queries.flatten(1)).view_as(queries)


def draw_row(views: Sequence[np.ndarray], maps: Sequence[np.ndarray], colors: np.ndarray) -> np.ndarray:
    """Draw weak view, mixed strong view, and over it the pseudo regions and the student's regions.

    Regions have the colour of their class, the student's a white border too. Other pixels stay as they are.

    Args:
        views: weak view and mixed strong view, (H, W, 3) uint8, RGB.
        maps: (h, w) int16: class of the pseudo label or -1; query and its class from :func:`query_map`.
        colors: (K, 3), RGB.

    Returns:
        uint8, the height of an image x 4 widths x 3, with a white gap below and to the right of each.
    """
    height, width = views[0].shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = max(1, round(factor * height)), max(1, round(factor * width))
    weak, mixed = (resize_image(view, size) for view in views)
    pseudo, queries, labels = (resize_label(index, size) for index in maps)
    student = overlay(mixed, labels, colors, _OPACITY)
    # White where the neighbour to the right or below belongs to another query.
    student[:, :-1][queries[:, 1:] != queries[:, :-1]] = 255
    student[:-1][queries[1:] != queries[:-1]] = 255
    tiles = [weak, mixed, overlay(mixed, pseudo, colors, _OPACITY), student]
    gap = ((0, _GAP), (0, _GAP), (0, 0))
    return np.concatenate([np.pad(tile, gap, constant_values=255) for tile in tiles], axis=1)

"""Segmentation of single images of any size by a trained model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..data import BandRule, LabelFiles, TestMapper, dataset_bands, read_image, require_registered
from ..data.loading.reading import ImageDepthError
from ..data.loading.transforms import resize_image, resize_label
from ..engine import RegionCheckpointer, load_config, load_model_file
from ..engine.region_classes import fits_whole_images
from ..engine.setup import build_model_or_explain
from ..errors import InputError, is_out_of_memory
from ..evaluation import Predictor, class_colors
from ..host import CfgNode, MetadataCatalog, Visualizer
from ..regions import most_probable

logger = logging.getLogger(__name__)
# Larger images are shrunk and their labels enlarged: the scores of each class take 4 bytes a pixel.
MAX_PIXELS = 2**24


@dataclass(frozen=True)
class Segmentation:
    """Prediction for an image of H x W pixels.

    Attributes:
        image: uint8 (H, W, C), the first three channels in BGR order.
        labels: uint8 (H, W), the class with the highest score.
        scores: (K, h, w), not normalised; of the image's size unless that exceeds MAX_PIXELS.
        metadata: that of the :class:`Segmenter`.
    """

    image: np.ndarray
    labels: np.ndarray
    scores: Tensor
    metadata: Any

    def confidence(self, label: int | str) -> np.ndarray:
        """Return the fraction of a class, an index or a name, in the sum of all scores, uint8 (H, W), 255 for 1.

        Raises:
            InputError: no class has this name.
        """
        names = self.metadata.stuff_classes
        if isinstance(label, str):
            if label not in names:
                raise InputError(f'"{label}" is not a class of this model; it has {", ".join(names)}.')
            label = names.index(label)
        total = self.scores.sum(dim=0).clamp_min(1e-6)
        fraction = (255 * self.scores[label] / total).round().to(torch.uint8).cpu().numpy()
        return cv2.resize(fraction, self.labels.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def overlay(self) -> np.ndarray:
        """Return the image with colours and names of the classes over it, uint8 (H, W, 3), BGR."""
        return cv2.cvtColor(draw_classes(self.image[..., 2::-1], self.labels, self.metadata), cv2.COLOR_RGB2BGR)


def draw_classes(image: np.ndarray, labels: np.ndarray, metadata: Any) -> np.ndarray:
    """Return colours and names of the classes, uint8 (H, W), over an image, uint8 (H, W, 3), RGB."""
    return Visualizer(np.ascontiguousarray(image), metadata).draw_sem_seg(labels, alpha=0.6).get_image()


class Segmenter:
    """Segments an image as the evaluation does (TEST.SLIDING_WINDOW, TEST.AUG).

    Attributes:
        by_windows: whether it predicts windows of the image at its own size, so that large images need not be shrunk.
        metadata: ``stuff_classes``, ``stuff_colors`` and ``ignore_label``.
        label_files: naming rule of the data set's label files.
        bands: how image files are read that are not plain 8-bit colour.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, metadata: Any, bands: BandRule | None = None):
        """Take a model in eval mode, its configuration, its data set's metadata and (or there) its bands."""
        self.mapper = TestMapper(cfg)
        self._channels = len(cfg.MODEL.PIXEL_MEAN)
        self.predictor = Predictor(cfg, model)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.by_windows = cfg.TEST.SLIDING_WINDOW.ENABLED and cfg.INPUT.MIN_SIZE_TEST == 0 and not cfg.TEST.AUG.ENABLED
        if not metadata.get("stuff_colors"):
            metadata.set(stuff_colors=class_colors(metadata.name).tolist())
        self.metadata = metadata
        self.bands = bands or metadata.get("bands")
        self.label_files = metadata.get("label_files", LabelFiles())

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes."""
        return self.metadata.stuff_classes

    def read(self, path: str | PathLike[str]) -> np.ndarray:
        """Return the image of a file as :meth:`__call__` takes it; raises as :func:`rc2l_d2.data.read_image`."""
        try:
            return read_image(path, rule=self.bands)
        except ImageDepthError as error:
            raise InputError(
                f"{path}: the image is {error.kind}, but the model was trained on plain 8-bit colour; convert it to "
                f"that, as the training images were made, or train with the keys bands and range."
            ) from error

    @torch.no_grad()
    def __call__(self, image: np.ndarray | str | PathLike[str]) -> Segmentation:
        """Segment one image, uint8 (H, W, C), BGR (more bands after it), or the image in a file.

        Raises:
            InputError: the file cannot be read, the array is of another kind, or there is not enough memory.
        """
        if not isinstance(image, np.ndarray):
            image = self.read(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != self._channels:
            raise InputError(
                f"The image is an array of {image.dtype} and shape {image.shape}; this model takes uint8 of shape "
                f"(height, width, {self._channels})."
            )
        height, width = image.shape[:2]
        scale = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
        resized = resize_image(image, (max(1, int(scale * height)), max(1, int(scale * width))))
        try:
            scores = self.predictor([self.mapper.sample(resized)])[0]["sem_seg"]
            labels = most_probable(scores, dim=0).to(torch.uint8).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"{width} x {height} pixels are too many for this memory; shrink or cut it.") from error
        return Segmentation(image, resize_label(labels, (height, width)), scores, self.metadata)


def load_segmenter(path: str | PathLike[str], tile: int = 0) -> Segmenter:
    """Load a self-describing model file, the ``teacher_final.pth`` of a run; on a GPU if there is one.

    Args:
        path: the file, or the name of a model that comes with the package (models/README.md).
        tile: see :func:`with_tile`.

    Raises:
        InputError: see :func:`rc2l_d2.engine.load_model_file`.
    """
    model, cfg, metadata = load_model_file(str(path))
    return Segmenter(model, with_tile(cfg, tile), metadata)


def with_tile(cfg: CfgNode, tile: int) -> CfgNode:
    """Return a configuration that predicts overlapping windows of ``tile`` x ``tile`` pixels at the image's own size.

    Where ``tile`` is 0, the configuration is returned as it is.

    Raises:
        InputError: ``tile`` is negative.
    """
    if tile < 0:
        raise InputError(f"--tile is {tile}; give the height and width of a window in pixels.")
    if not tile:
        return cfg
    edges = [edge for edge in cfg.INPUT.MIN_SIZE_TRAIN if edge]
    if edges:
        logger.warning(
            "The model was trained on images with shorter edges of %s pixels, and --tile keeps the size of the image: "
            "objects may be larger than any that the model has seen.", edges,
        )  # fmt: skip
    if fits_whole_images(cfg):
        logger.warning("The model's classes were fitted to whole images: with --tile they may be less accurate.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.TEST.AUG.ENABLED = False
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE = [tile, tile]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [max(1, 2 * tile // 3)] * 2
    cfg.freeze()
    return cfg


def load_checkpoint(config_file: str, overrides: Sequence[str], student: bool = False, tile: int = 0) -> Segmenter:
    """Load the checkpoint in MODEL.WEIGHTS: its EMA teacher, or the student if ``student`` or if it has no teacher.

    ``tile``: see :func:`with_tile`.

    Raises:
        InputError: MODEL.WEIGHTS or DATASETS.TEST is empty, or the file cannot be used.
    """
    cfg = load_config(config_file, overrides)
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; name the data set with the classes and colours to draw.")
    require_registered(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; name a checkpoint with --opts MODEL.WEIGHTS FILE.")
    model = build_model_or_explain(cfg).eval()
    rest = RegionCheckpointer(model, data_sets=cfg.DATASETS.TEST[:1], cfg=cfg).load(cfg.MODEL.WEIGHTS)
    if "ema" in rest and not student:
        model.load_state_dict(rest["ema"]["model"])
    bands = dataset_bands(cfg.DATASETS.TEST[0])
    return Segmenter(model, with_tile(cfg, tile), MetadataCatalog.get(cfg.DATASETS.TEST[0]), bands)

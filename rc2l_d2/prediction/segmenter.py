"""A trained model that is asked about single pictures, of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..data import LabelFiles, TestMapper, require_registered
from ..data.loading.transforms import resize_image, resize_label
from ..engine import RegionCheckpointer, load_config, load_model_file
from ..errors import InputError, is_out_of_memory
from ..evaluation import Predictor, class_colors
from ..host import CfgNode, MetadataCatalog, build_model
from ..regions import most_probable

# The scores of all classes take four bytes a pixel each. Larger pictures are asked about at this size and the answer is
# enlarged: the model's masks are coarser anyway.
MAX_PIXELS = 2**24


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a picture of H x W pixels.

    Attributes:
        labels: uint8 (H, W), the class with the highest score.
        scores: (K, h, w), the picture's size but for the largest pictures; not normalised.
    """

    labels: np.ndarray
    scores: Tensor

    @cached_property
    def _totals(self) -> Tensor:
        return self.scores.sum(dim=0).clamp_min(1e-6)

    def confidence(self, label: int) -> np.ndarray:
        """uint8 (H, W): the share that class ``label`` has in the sum of all scores, 255 for all of it."""
        share = (255 * self.scores[label] / self._totals).round().to(torch.uint8).cpu().numpy()
        height, width = self.labels.shape
        return cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)


class Segmenter:
    """Callable: a picture to its :class:`Segmentation`, as the model was evaluated (TEST.SLIDING_WINDOW, TEST.AUG).

    Attributes:
        metadata: ``stuff_classes``, ``stuff_colors`` and ``ignore_label``.
        label_files: how the labels of the model's data set are called.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, metadata: Any):
        """
        Args:
            model: in eval mode, on its device.
            cfg: its configuration.
            metadata: of its classes, as in the host's catalog.

        Raises:
            InputError: the configuration has an impossible size.
        """
        self.mapper = TestMapper(cfg)
        self.predictor = Predictor(cfg, model)
        if not metadata.get("stuff_colors"):
            metadata.set(stuff_colors=class_colors(metadata.name).tolist())
        self.metadata = metadata
        self.label_files = metadata.get("label_files", LabelFiles())

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Segmentation:
        """
        Args:
            image: uint8 (H, W, 3) in BGR order.

        Raises:
            InputError: the machine's memory, or the GPU's, does not suffice.
        """
        height, width = image.shape[:2]
        scale = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
        asked = resize_image(image, (max(1, int(scale * height)), max(1, int(scale * width))))
        try:
            scores = self.predictor([self.mapper.sample(asked)])[0]["sem_seg"]
            labels = most_probable(scores, dim=0).to(torch.uint8).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"{width} x {height} pixels are too many for this memory; shrink or cut it.") from error
        return Segmentation(resize_label(labels, (height, width)), scores)


def load_weights(path: str) -> Segmenter:
    """The model of a file that describes itself, ``teacher_final.pth`` of a run, on a GPU where there is one.

    Raises:
        InputError: see :func:`rc2l_d2.engine.load_model_file`.
    """
    return Segmenter(*load_model_file(path))


def load_checkpoint(config_file: str, overrides: Sequence[str], student: bool = False) -> Segmenter:
    """The model of a checkpoint, which MODEL.WEIGHTS names: its teacher, where it has one and ``student`` is false.

    Raises:
        InputError: no weights or data set are given, or the file cannot be used.
    """
    cfg = load_config(config_file, overrides)
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; it names the data set whose classes and colours are drawn.")
    require_registered(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; name a checkpoint with --opts MODEL.WEIGHTS FILE.")
    model = build_model(cfg).eval()
    rest = RegionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if "ema" in rest and not student:
        model.load_state_dict(rest["ema"]["model"])
    return Segmenter(model, cfg, MetadataCatalog.get(cfg.DATASETS.TEST[0]))

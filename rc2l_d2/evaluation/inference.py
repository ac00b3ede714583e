"""Prediction on test images: whole or by sliding window, at one or several scales, with or without mirroring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import TestMapper, load_dataset, read_image, read_label
from ..data.loading.mappers import augmented_sizes
from ..errors import InputError
from ..host import CfgNode
from ..regions import most_probable

_WINDOWS = 9  # in one forward pass; a large image has hundreds, too many for memory
_CPU_PIXELS = 512 * 512  # of a pass on a CPU; with larger ones a window takes longer, as its maps leave the cache


def windows_at_once(window: Sequence[int], device: str) -> int:
    """Return the number of windows (h, w) in one forward pass on a device ("cpu", "cuda", ...)."""
    return _WINDOWS if device != "cpu" else max(1, min(_WINDOWS, _CPU_PIXELS // math.prod(window)))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the starts of windows that cover ``length`` >= ``window``: ``stride`` apart, the last ends flush."""
    return [*range(0, length - window, stride), length - window]


class Predictor(nn.Module):
    """Applies a model to test samples with the settings of ``cfg.TEST``.

    Without TEST.SLIDING_WINDOW and TEST.AUG it calls the model itself. With them it averages the model's scores

    - over overlapping windows at the size of the test image, and resizes the result to the original size. A window as
      large as the image gives exactly the whole-image result.
    - over the sizes in TEST.AUG.MIN_SIZES and, with TEST.AUG.FLIP, over mirror images, at the original size
      (MaskFormer's test-time augmentation); each view goes through the sliding window if that is enabled.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """Take a model that maps lists of samples to lists of ``{"sem_seg": (K, height, width)}``.

        Raises:
            InputError: see :func:`check_test_settings`.
        """
        super().__init__()
        self.model = model
        self.training = model.training  # The host's evaluation restores the mode that it finds.
        check_test_settings(cfg)
        window = cfg.TEST.SLIDING_WINDOW
        self.window = tuple(window.CROP_SIZE) if window.ENABLED else None
        self.stride = tuple(window.STRIDE)
        self.windows_at_once = windows_at_once(self.window or (1, 1), cfg.MODEL.DEVICE)
        self.augmented = cfg.TEST.AUG.ENABLED
        self.flip = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Return ``{"sem_seg": (K, height, width)}`` for each sample of :class:`TestMapper`."""
        if self.window is None and not self.augmented:
            return self.model(batched_inputs)
        return [{"sem_seg": self._scores(sample)} for sample in batched_inputs]

    def _scores(self, sample: dict) -> Tensor:
        """Return the mean over scales and flips, (K, height, width)."""
        images = sample["scales"] if self.augmented else [sample["image"]]
        size = {"height": sample["height"], "width": sample["width"]}
        total = 0
        for image in images:
            total = total + self._scores_of_view({"image": image, **size})
            if self.flip:
                total += self._scores_of_view({"image": image.flip(-1), **size}).flip(-1)
        return total / (len(images) * (1 + self.flip))

    def _scores_of_view(self, sample: dict) -> Tensor:
        """Return the scores of one view, whole or by windows, (K, height, width)."""
        if self.window is None:
            return self.model([sample])[0]["sem_seg"]
        scores = self._scores_by_window(sample["image"])
        size = (sample["height"], sample["width"])
        if size == scores.shape[-2:]:
            return scores
        return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]

    def _scores_by_window(self, image: Tensor) -> Tensor:
        """Return the mean over windows, (K, h, w), of an image (3, h, w)."""
        size = image.shape[-2:]
        height, width = window = tuple(map(min, size, self.window))
        corners = [*product(*map(window_starts, size, window, self.stride))]
        total: Tensor | None = None
        for first in range(0, len(corners), self.windows_at_once):
            batch = corners[first : first + self.windows_at_once]
            results = self.model([{"image": image[:, y : y + height, x : x + width]} for y, x in batch])
            for (y, x), result in zip(batch, results, strict=True):
                scores = result["sem_seg"]
                if total is None:
                    total, count = scores.new_zeros(len(scores), *size), scores.new_zeros(size)
                total[:, y : y + height, x : x + width] += scores
                count[y : y + height, x : x + width] += 1
        return total.div_(count)


def check_test_settings(cfg: CfgNode) -> None:
    """Check TEST.AUG and TEST.SLIDING_WINDOW, each if it is enabled.

    Raises:
        InputError: no sizes, a size that is no positive integer, or a stride larger than the window.
    """
    augmented_sizes(cfg)
    window = cfg.TEST.SLIDING_WINDOW
    if not window.ENABLED:
        return
    for key, pair in (("CROP_SIZE", window.CROP_SIZE), ("STRIDE", window.STRIDE)):
        if len(pair) != 2 or not all(isinstance(length, int) and length > 0 for length in pair):
            raise InputError(f"TEST.SLIDING_WINDOW.{key} is {list(pair)}; set it to a height and a width in pixels.")
    if any(stride > length for stride, length in zip(window.STRIDE, window.CROP_SIZE, strict=True)):
        raise InputError(
            f"TEST.SLIDING_WINDOW.STRIDE is {list(window.STRIDE)}; make it at most CROP_SIZE {list(window.CROP_SIZE)}."
        )


@dataclass(frozen=True)
class ImagePrediction:
    """Prediction for one image, at the size of its file.

    Attributes:
        file: path of the image.
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, the ground truth.
        prediction: (H, W), the class with the highest score.
    """

    file: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


@torch.no_grad()
def predict_images(
    cfg: CfgNode, model: nn.Module, dataset_name: str, indices: Sequence[int]
) -> Iterator[ImagePrediction]:
    """Apply a model in eval mode to single images of a registered data set with labels, one at a time.

    Raises:
        InputError: the data set cannot be used, or a file cannot be read.
    """
    records = load_dataset(dataset_name, labels="all", key="DATASETS.TEST")
    mapper, predictor = TestMapper(cfg), Predictor(cfg, model)
    for index in indices:
        sample = mapper(records[index])
        # At the file's size, unlike the sample's.
        image = read_image(sample["file_name"], "RGB", sample.get("bands"))[..., :3]
        label = read_label(sample["sem_seg_file_name"], sample.get("label_map"))
        scores = predictor([sample])[0]["sem_seg"]
        yield ImagePrediction(sample["file_name"], image, label, most_probable(scores, dim=0).cpu().numpy())

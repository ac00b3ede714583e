"""How a model is asked about a test image: whole or by sliding window, at one scale or at several, and mirrored."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.loading.mappers import augmented_sizes
from ..errors import InputError
from ..host import CfgNode

# Windows that go through the model together: an image of 24 megapixels has hundreds, and each takes memory.
WINDOW_BATCH = 9


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows of ``window`` pixels begin that cover ``length`` (not less): ``stride`` apart, the last flush."""
    return [*range(0, length - window, stride), length - window]


class Predictor(nn.Module):
    """A model as ``cfg.TEST`` wants it asked; takes test samples and returns what the model does.

    Without TEST.SLIDING_WINDOW and TEST.AUG this is the model itself. With them, the average of the model's scores:

    - over the windows that a pixel lies in, at the test image's size; the result is then resized to the original size,
      as the model does with a whole image. A window as large as the image gives exactly the whole-image result.
    - over the sizes in TEST.AUG.MIN_SIZES and, with TEST.AUG.FLIP, mirrored and not, at the original size (MaskFormer's
      test-time augmentation). Each of them goes through the sliding window, if that is enabled.

    As a module it follows the model's mode, so whatever runs it may set and restore that.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """
        Args:
            cfg: TEST.SLIDING_WINDOW and TEST.AUG are read.
            model: in eval mode, lists of samples to lists of ``{"sem_seg": (K, height, width)}``.

        Raises:
            InputError: a size in ``cfg`` is impossible.
        """
        super().__init__()
        self.model = model
        self.training = model.training
        check_test_settings(cfg)
        window = cfg.TEST.SLIDING_WINDOW
        self.window = tuple(window.CROP_SIZE) if window.ENABLED else None
        self.stride = tuple(window.STRIDE)
        self.augmented = cfg.TEST.AUG.ENABLED
        self.flip = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: samples of :class:`TestMapper`, with "image" and, where TEST.AUG is enabled, "scales".

        Returns:
            ``{"sem_seg": (K, height, width)}`` for each.
        """
        if self.window is None and not self.augmented:
            return self.model(batched_inputs)
        return [{"sem_seg": self._scores(sample)} for sample in batched_inputs]

    def _scores(self, sample: dict) -> Tensor:
        """(K, height, width), the mean over scales and flips, one at a time."""
        images = sample["scales"] if self.augmented else [sample["image"]]
        size = {"height": sample["height"], "width": sample["width"]}
        views = [*product(images, (False, True) if self.flip else (False,))]
        total: Tensor | None = None
        for image, mirrored in views:
            scores = self._scores_of_image({"image": image.flip(-1) if mirrored else image, **size})
            total = torch.zeros_like(scores) if total is None else total
            total += scores.flip(-1) if mirrored else scores
        return total.div_(len(views))

    def _scores_of_image(self, sample: dict) -> Tensor:
        """(K, height, width) of one image, whole or by windows."""
        if self.window is None:
            return self.model([sample])[0]["sem_seg"]
        scores = self._scores_by_window(sample["image"])
        wanted = (sample["height"], sample["width"])
        if wanted == scores.shape[-2:]:
            return scores
        return F.interpolate(scores[None], size=wanted, mode="bilinear", align_corners=False)[0]

    def _scores_by_window(self, image: Tensor) -> Tensor:
        """(K, h, w) for an image (3, h, w): windows in batches; where they overlap, their mean."""
        size = image.shape[-2:]
        # An image smaller than the window is its own window.
        height, width = window = tuple(map(min, size, self.window))
        corners = [*product(*map(window_starts, size, window, self.stride))]
        total: Tensor | None = None
        for first in range(0, len(corners), WINDOW_BATCH):
            batch = corners[first : first + WINDOW_BATCH]
            results = self.model([{"image": image[:, y : y + height, x : x + width]} for y, x in batch])
            for (y, x), result in zip(batch, results, strict=True):
                scores = result["sem_seg"]
                if total is None:
                    total, count = scores.new_zeros(len(scores), *size), scores.new_zeros(size)
                total[:, y : y + height, x : x + width] += scores
                count[y : y + height, x : x + width] += 1
        return total.div_(count)


def check_test_settings(cfg: CfgNode) -> None:
    """Refuse a TEST.AUG or a TEST.SLIDING_WINDOW that is enabled and impossible.

    Raises:
        InputError: no sizes, or such as are not positive whole numbers; a stride that exceeds the window and would
            leave gaps.
    """
    augmented_sizes(cfg)
    window = cfg.TEST.SLIDING_WINDOW
    if not window.ENABLED:
        return
    for key, pair in (("CROP_SIZE", window.CROP_SIZE), ("STRIDE", window.STRIDE)):
        if len(pair) != 2 or not all(isinstance(length, int) and length > 0 for length in pair):
            raise InputError(
                f"TEST.SLIDING_WINDOW.{key} is {list(pair)}; set it to a height and a width in whole pixels."
            )
    if any(stride > length for stride, length in zip(window.STRIDE, window.CROP_SIZE, strict=True)):
        raise InputError(
            f"TEST.SLIDING_WINDOW.STRIDE is {list(window.STRIDE)}, more than CROP_SIZE {list(window.CROP_SIZE)}, which "
            f"leaves pixels out; make it at most as large."
        )

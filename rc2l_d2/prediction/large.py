"""Segmentation of images that are too large to be held in memory: by windows at full size, or shrunk."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.loading.bands import import_rasterio
from ..data.loading.plain import header
from ..data.loading.raster import CACHE, RasterFile
from ..errors import InputError, is_out_of_memory
from ..evaluation.inference import window_starts
from ..regions import most_probable
from .segmenter import MAX_PIXELS, Segmenter

# Pixels of an overlay of a large image, and bytes of the scores that are summed at a time.
OVERVIEW = 2**22
_SCORES = 2**28
_ROWS = 512  # rows of labels that are enlarged at a time, and pixels of a block in label files


def is_large(file: Path) -> bool:
    """Return whether an image has more pixels than are segmented at once; False for files without a known header."""
    return math.prod(header(file)[0]) > MAX_PIXELS


def segment_by_windows(
    raster: RasterFile, segmenter: Segmenter, score_bytes: int = _SCORES
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (top, left, labels), labels uint8 (h, w), of blocks that cover the image once.

    The labels are those of :class:`rc2l_d2.evaluation.Predictor` with the same windows: scores are averaged where
    windows overlap. Windows are read from top to bottom, in columns so wide that their scores fit ``score_bytes``.

    Raises:
        InputError: the file is damaged, or there is not enough memory for a window.
    """
    size, number = raster.size, len(segmenter.metadata.stuff_classes)
    height, width = window = tuple(map(min, size, segmenter.predictor.window))
    rows, columns = map(window_starts, size, window, segmenter.predictor.stride)
    strips = math.ceil(4 * number * height * size[1] / score_bytes)
    edges = np.linspace(0, size[1], strips + 1).astype(int).tolist()
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        starts = [start for start in columns if start < right and start + width > left]
        first = starts[0]
        total = torch.zeros(number, height, starts[-1] + width - first, device=segmenter.device)
        count = total.new_zeros(total.shape[1:])
        for top, following in zip(rows, [*rows[1:], size[0]], strict=True):
            for start, scores in _window_scores(raster, segmenter, top, starts, window):
                total[:, :, start - first : start - first + width] += scores
                count[:, start - first : start - first + width] += 1
            done, inside = following - top, slice(left - first, right - first)
            means = total[:, :done, inside] / count[:done, inside]
            yield top, left, most_probable(means, dim=0).to(torch.uint8).cpu().numpy()
            total, count = (_shifted(sums, done) for sums in (total, count))


def _window_scores(
    raster: RasterFile, segmenter: Segmenter, top: int, starts: Sequence[int], window: tuple[int, int]
) -> Iterator[tuple[int, Tensor]]:
    number = segmenter.predictor.windows_at_once
    for place in range(0, len(starts), number):
        batch = starts[place : place + number]
        images = [segmenter.mapper.sample(raster.read(top, start, *window))["image"] for start in batch]
        try:
            with torch.no_grad():
                results = segmenter.predictor.model([{"image": image} for image in images])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"windows of {window[1]} x {window[0]} are too large for this memory; give --tile."
            ) from error
        yield from ((start, result["sem_seg"]) for start, result in zip(batch, results, strict=True))


def _shifted(sums: Tensor, rows: int) -> Tensor:
    """Move sums (..., h, w) up by ``rows``; zeros come in from below."""
    sums = sums.roll(-rows, dims=-2)
    sums[..., sums.shape[-2] - rows :, :] = 0
    return sums


def segment_shrunk(raster: RasterFile, segmenter: Segmenter) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (top, left, labels) as :func:`segment_by_windows`, of a prediction for the image shrunk to MAX_PIXELS."""
    height, width = raster.size
    scale = math.sqrt(MAX_PIXELS / (height * width))
    small = segmenter(raster.read_reduced((max(1, int(scale * height)), max(1, int(scale * width))))).labels
    # The nearest pixel, as a resize by nearest neighbour takes it.
    rows, columns = (
        (2 * np.arange(length) + 1) * own // (2 * length) for length, own in zip(raster.size, small.shape, strict=True)
    )
    for top in range(0, height, _ROWS):
        yield top, 0, small[rows[top : top + _ROWS]][:, columns]


class LabelFile:
    """Label image written block by block: a GeoTIFF where the image is georeferenced, otherwise a PNG; for ``with``.

    Attributes:
        path: of the file, which gets its name when it is complete.
    """

    def __init__(
        self,
        stem: Path,
        size: tuple[int, int],
        georeference: dict[str, Any],
        colors: np.ndarray,
        is_kept: bool = True,
    ):
        """
        Args:
            stem: path without ".tif" or ".png".
            size: height and width.
            georeference: of the image, see :class:`RasterFile`.
            colors: palette, uint8 (K, 3).
            is_kept: False for a file that :meth:`read_reduced` alone reads: no file gets the name ``path``.
        """
        self._is_kept = is_kept
        self._rasterio = rasterio = import_rasterio(stem, "windows of a large image (or cut it)")
        self.path = stem.with_name(f"{stem.name}.{'tif' if georeference else 'png'}")
        self._part = stem.with_name(f"{stem.name}.part.tif")
        # Without a georeference there is nothing to keep in a file beside it.
        self._env = rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_PAM_ENABLED=bool(georeference))
        height, width = size
        self._profile = {
            "driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8", "compress": "deflate",
            # A PNG is written line by line, for each of which GDAL decodes whole blocks.
            "tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS if georeference else 16, "bigtiff": "IF_SAFER",
            "zlevel": 6 if georeference else 1, **georeference,
        }  # fmt: skip
        self._colormap = {index: tuple(color) for index, color in enumerate(colors.tolist())}

    def __enter__(self) -> LabelFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._env.__enter__()
        self._file = self._rasterio.open(self._part, "w+", **self._profile)
        self._file.write_colormap(1, self._colormap)
        return self

    def write(self, top: int, left: int, labels: np.ndarray) -> None:
        """Write a block, uint8 (h, w)."""
        height, width = labels.shape
        self._file.write(labels, 1, window=((top, top + height), (left, left + width)))

    def read_reduced(self, size: tuple[int, int]) -> np.ndarray:
        """Return the labels at a smaller ``size`` (h, w), by nearest neighbour."""
        return self._file.read(1, out_shape=size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            is_complete = kind is None and self._is_kept
            if is_complete and self.path.suffix == ".png":
                converted = self._part.with_suffix(".png")
                self._rasterio.shutil.copy(self._part, converted, driver="PNG", ZLEVEL=2)
                os.replace(converted, self.path)
            elif is_complete:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)
            self._env.__exit__(kind, error, trace)

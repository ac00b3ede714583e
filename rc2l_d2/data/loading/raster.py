"""Windows of large image files, read without decoding the rest, by rasterio (the extra "raster")."""

from __future__ import annotations

import logging
import math
import os
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ...errors import InputError, one_line
from ..labels.label_map import LabelMap, UnlistedValueError
from .bands import BandRule, checked_bands, import_rasterio, stored_values
from .plain import header, tiff_pages
from .reading import swapped
from .transforms import resize_bands

logger = logging.getLogger(__name__)
# Decoded blocks that GDAL keeps, in MB: a row of windows of a large file.
CACHE = 256
_TIFF_STARTS = (b"II", b"MM")
# Images of fewer pixels are decoded whole, which is as fast.
_SMALL = 2**22
_ROWS = 1024  # of a label that are read at a time
_STRIP = 2**24  # pixels of an image that are shrunk at a time
# rasterio's names of compressions that change no value.
_LOSSLESS = {"lzw", "deflate", "packbits", "zstd", "lzma"}
_NEED = "windows of a large image (or cut it)"
_GEO_TAGS = (33550, 33922, 34264, 50844)  # GeoTIFF's ModelPixelScale, -Tiepoint and -Transformation; RPCs


class RasterFile:
    """An image or label file, for ``with``: 8-bit grey, palette or RGB, or what a rule of its data set reads.

    What the file itself says of its bands is checked.

    Attributes:
        size: height and width in pixels.
        georeference: ``crs`` and ``transform``, or ``gcps``, and ``rpcs``, as rasterio writes them; empty without any.
    """

    def __init__(self, path: str | os.PathLike, rule: BandRule | None = None):
        """Open the file; ``rule``: bands and range of the data set's images.

        Raises:
            InputError: rasterio is missing, the file cannot be read, the rule does not fit it, or without a rule it is
                not plain 8-bit grey, palette or RGB.
        """
        self.path, self._rule = path, rule
        self._rasterio = import_rasterio(path, _NEED)
        self._env = self._rasterio.Env(GDAL_CACHEMAX=CACHE)
        try:
            self._file = self._rasterio.open(path)
        except self._rasterio.errors.RasterioIOError as error:
            raise InputError(f"{path}: the file cannot be read ({one_line(error)}); replace it.") from error
        self.size: tuple[int, int] = (self._file.height, self._file.width)
        self.georeference = _georeference(self._file)
        colors = self._rasterio.enums.ColorInterp
        self._palette: np.ndarray | None = None
        try:
            if rule is None:
                self._bands = self._plain_bands(colors)
            elif header(path)[1] != 1:
                raise InputError(f"{path}: the file is stored turned; save it upright.")
            else:
                self._bands = checked_bands(path, self._file, rule)
        except InputError:
            self._file.close()
            raise

    def _plain_bands(self, colors: Any) -> list[int]:
        """Read the palette and return the numbers of the bands; InputError if the file is no plain 8-bit image."""
        # A TIFF's fourth band may be anything, also where it is marked as alpha.
        kept = [self._file.driver == "GTiff" or color != colors.alpha for color in self._file.colorinterp]
        bands = [band for band, is_kept in zip(self._file.indexes, kept, strict=True) if is_kept]
        if self._file.colorinterp[0] == colors.palette:
            self._palette = np.zeros((256, 3), np.uint8)
            for index, color in self._file.colormap(1).items():
                self._palette[index] = color[:3]
        if problem := self._problem(bands, colors):
            raise InputError(f"{self.path}: the file {problem}; save it as upright 8-bit grey or RGB.")
        return bands

    def _problem(self, bands: list[int], colors: Any) -> str:
        """Return what makes the file no plain 8-bit image, or ""."""
        interpretation = [self._file.colorinterp[band - 1] for band in bands]
        if self._file.subdatasets:
            return f"has {len(self._file.subdatasets)} pages"
        if any(dtype != "uint8" for dtype in self._file.dtypes):
            return f"has values of type {self._file.dtypes[0]}"
        # GDAL does not scale them to 8 bits, as the readers of whole files do.
        if self._palette is None and (bits := self._file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")):
            return f"has values of {bits} bit{'s' if bits != '1' else ''}"
        if len(bands) not in (1, 3):
            return f"has {len(bands)} bands"
        if len(bands) == 3 and interpretation != [colors.red, colors.green, colors.blue]:
            return f"has the bands {', '.join(color.name for color in interpretation)}"
        if self._file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" or header(self.path)[1] != 1:
            return "is stored turned or inverted"
        return ""

    def __enter__(self) -> RasterFile:
        self._env.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._env.__exit__(kind, error, trace)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a window of the image, uint8 (height, width, C) in BGR order, C as in :func:`.reading.read_image`."""
        return self._image(self._read(top, left, height, width))

    def read_reduced(self, size: tuple[int, int]) -> np.ndarray:
        """Return the whole image at a smaller ``size`` (h, w), by area, uint8 (h, w, C) in BGR order."""
        height, width = self.size
        rows = max(1, _STRIP // (width * len(self._bands)))
        # GDAL's own average takes twenty times as long.
        narrow = [
            resize_bands(strip, (len(strip), size[1]), cv2.INTER_AREA)
            for top in range(0, height, rows)
            for strip in [self.read(top, 0, min(rows, height - top), width)]
        ]
        return resize_bands(np.concatenate(narrow), size, cv2.INTER_AREA)

    def read_values(self, top: int, left: int, height: int, width: int) -> np.ndarray | None:
        """Return a window of the values of a one-band file that keeps them, uint8 (height, width); None for others."""
        if len(self._bands) != 1 or (self._file.compression and self._file.compression.name not in _LOSSLESS):
            return None
        return self._read(top, left, height, width)[0]

    def _image(self, bands: np.ndarray) -> np.ndarray:
        if self._rule is not None:
            return np.ascontiguousarray(swapped(self._rule.stretch(bands)))
        if self._palette is not None:
            return np.ascontiguousarray(self._palette[bands[0]][..., ::-1])
        if len(bands) == 1:
            return cv2.cvtColor(bands[0], cv2.COLOR_GRAY2BGR)
        return np.ascontiguousarray(bands[::-1].transpose(1, 2, 0))

    def _read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        window = ((top, top + height), (left, left + width))
        try:
            return stored_values(self._file, self._bands, self._rule or BandRule(), window=window)
        except self._rasterio.errors.RasterioIOError as error:
            raise InputError(f"{self.path}: the file is damaged ({one_line(error)}); replace it.") from error


def georeference_of(path: str | os.PathLike) -> dict[str, Any]:
    """Return the georeference of a GeoTIFF as :class:`RasterFile`; empty for other files.

    Where rasterio is missing, a warning says that the georeference cannot be kept.

    Raises:
        InputError: the file is stored turned, and its georeference is that of the stored rows.
    """
    with open(path, "rb") as file:
        if file.read(2) not in _TIFF_STARTS:
            return {}
    try:
        with import_rasterio(path, _NEED).open(path) as image:
            place = _georeference(image)
    except InputError:
        with open(path, "rb") as file:
            tags = next(tiff_pages(file), {})
        if any(tag in tags for tag in _GEO_TAGS):
            logger.warning("%s: the georeference is not kept without rasterio (pip install 'rc2l_d2[raster]').", path)
        return {}
    except OSError:  # rasterio's errors are of this kind; reading the image says more.
        return {}
    if place and header(path)[1] != 1:
        raise InputError(f"{path}: the file is stored turned, and its georeference is not; save it upright.")
    return place


def _georeference(file: Any) -> dict[str, Any]:
    points, crs = file.gcps
    # Satellites' scenes may have ground control points or RPCs instead of a transform.
    place = {"gcps": points, "crs": crs} if points else {"crs": file.crs, "transform": file.transform}
    if not points and file.crs is None and file.transform.is_identity:
        place = {}
    return {**place, "rpcs": file.rpcs} if file.rpcs is not None else place


def open_windows(path: str | os.PathLike, rule: BandRule | None = None) -> RasterFile | None:
    """Open a large TIFF whose windows can be read, with the ``rule`` of its data set, if any.

    None for every other file, and where rasterio is missing.
    """
    try:
        with open(path, "rb") as file:
            is_tiff = file.read(2) in _TIFF_STARTS
        return RasterFile(path, rule) if is_tiff and math.prod(header(path)[0]) >= _SMALL else None
    except (OSError, InputError):  # Reading it whole says what is wrong, or reads it.
        return None


def read_label_window(
    path: str | os.PathLike, label_map: LabelMap | None, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Read a window of a label file as class indices.

    Args:
        path: the label file.
        label_map: the meaning of its values; None takes them as class indices.
        window: top, left, height and width in pixels.

    Returns:
        uint8 (height, width), and the size (H, W) of the whole label; None where it has to be read whole.

    Raises:
        InputError: the file is damaged, or the map does not list a value.
    """
    if label_map is not None and (
        not isinstance(label_map, LabelMap) or label_map.colors or label_map.threshold is not None
    ):
        return None
    raster = open_windows(path)
    if raster is None:
        return None
    with raster:
        top, left, height, width = window
        inside = top + height <= raster.size[0] and left + width <= raster.size[1]
        values = raster.read_values(*window) if inside else None
        if values is None:
            return None
        try:
            return values if label_map is None else label_map.apply(values), raster.size
        except UnlistedValueError:
            return None  # Reading it whole reports the values.


def large_image_size(path: str | os.PathLike, rule: BandRule | None = None) -> tuple[int, int] | None:
    """Return height and width of a large TIFF, of which only the first and last row are read; None for other files.

    Raises:
        InputError: the file is damaged there.
    """
    raster = open_windows(path, rule)
    if raster is None:
        return None
    with raster:
        height, width = raster.size
        for top in (0, height - 1):
            raster.read(top, 0, 1, width)
        return raster.size


def large_label_counts(
    path: str | os.PathLike, label_map: LabelMap | None
) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Return pixels (256,) of each class index, and the size (H, W), of a large TIFF of values; None for other files.

    Raises:
        InputError: the file is damaged.
    """
    height, width = header(path)[0]
    if height * width < _SMALL:
        return None
    counts = np.zeros(256, np.int64)
    for top in range(0, height, _ROWS):
        part = read_label_window(path, label_map, (top, 0, min(_ROWS, height - top), width))
        if part is None:
            return None
        counts += np.bincount(part[0].ravel(), minlength=256)
    return counts, (height, width)

"""Images of other depths and bands than 8-bit colour: the rule by which a data set's rasters become 8-bit arrays.

rasterio (GDAL) reads the values as they are stored: nothing is premultiplied, and every compression is known.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import InputError, one_line
from .plain import LARGEST_IMAGE

_FORM = "bands is a list of band numbers from 1, one or at least three, as [4, 3, 2]"
_RANGE_FORM = (
    "range is [low, high], as [0, 3000], one such pair for each band, or {percentiles: [2, 98]} of the data set's "
    "images"
)
# Files that percentiles are computed from, and pixels of each along an edge.
_SAMPLE, _SIDE = 64, 512
# GDAL reads other formats too, some of which open further files or addresses.
_DRIVERS = {b"II": "GTiff", b"MM": "GTiff", b"\x89P": "PNG", b"\xff\xd8": "JPEG", b"RI": "WEBP", b"BM": "BMP"}
# EXIF orientation -> (quarter turns counterclockwise, whether it is mirrored left to right before).
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


@dataclass(frozen=True)
class BandRule:
    """Bands of a raster file, and the range of values that becomes 0 to 255."""

    bands: tuple[int, ...] = ()  # from 1; empty: the one or three bands of a file
    ranges: tuple[tuple[float, float], ...] = ()  # of all bands, or one for each; empty: 8-bit values stay
    percentiles: tuple[float, float] | None = None  # that will be the ranges

    @classmethod
    def from_yaml(cls, bands: Any, range_: Any) -> BandRule | None:
        """Validate the keys ``bands`` and ``range`` of a data set's YAML file; None without both.

        Raises:
            ValueError: the expected form.
        """
        if bands is None and range_ is None:
            return None
        usable = bands is None or (
            isinstance(bands, list) and len(bands) not in (0, 2) and all(type(b) is int and b >= 1 for b in bands)
        )
        _expect(usable, f"{_FORM} (it is {bands!r}; repeat a band to use two)")
        rule = cls(tuple(bands or ()))
        if isinstance(range_, dict):
            pair = range_.get("percentiles")
            _expect(set(range_) == {"percentiles"} and _is_pair(pair) and 0 <= pair[0] and pair[1] <= 100, _RANGE_FORM)
            return replace(rule, percentiles=tuple(map(float, pair)))
        if range_ is None:
            return rule
        pairs = [range_] if _is_pair(range_) else range_
        _expect(isinstance(pairs, list) and len(pairs) > 0 and all(map(_is_pair, pairs)), _RANGE_FORM)
        _expect(len(pairs) in (1, len(rule.bands)), f"{_RANGE_FORM} ({len(pairs)} pairs for {len(rule.bands)} bands)")
        return replace(rule, ranges=tuple((float(low), float(high)) for low, high in pairs))

    @classmethod
    def from_options(cls, bands: str, range_: str) -> BandRule | None:
        """Read the options --bands, ``4,3,2``, and --range, ``0,3000`` or percentiles, ``2%,98%``; None without both.

        Raises:
            InputError: an option cannot be read.
        """
        try:
            numbers = [int(number) for number in bands.split(",")] if bands else None
            ends = [float(end.removesuffix("%")) for end in range_.split(",")] if range_ else None
            return cls.from_yaml(numbers, {"percentiles": ends} if "%" in range_ else ends)
        except ValueError as error:
            raise InputError(
                f"--bands {bands} or --range {range_} cannot be used ({error}); give --bands 4,3,2 --range 0,3000."
            ) from error

    def keys(self) -> dict[str, Any]:
        """The keys bands and range of a data set's YAML file."""
        pairs = [list(pair) for pair in self.ranges]
        written = {"bands": list(self.bands)} if self.bands else {}
        return written | ({"range": pairs if len(pairs) > 1 else pairs[0]} if pairs else {})

    @property
    def channels(self) -> int:
        """Channels of an image: one band gives three equal ones."""
        return 3 if len(self.bands) <= 3 else len(self.bands)

    def resolved(self, files: Sequence[str]) -> BandRule:
        """The rule with ranges instead of percentiles, which are computed for each band from a sample of ``files``.

        Raises:
            InputError: there is no file, or one cannot be read.
        """
        if self.percentiles is None:
            return self
        step = max(1, -(-len(files) // _SAMPLE))
        sample = [files[index] for index in range(0, len(files), step)]
        values = [_read(path, replace(self, ranges=((0.0, 1.0),)), _SIDE) for path in sample]
        if not values:
            raise InputError("range names percentiles, but the data set has no image to compute them from.")
        other = next((place for place, bands in enumerate(values) if len(bands) != len(values[0])), None)
        if other is not None:
            raise InputError(
                f"{sample[0]} and {sample[other]} have {len(values[0])} and {len(values[other])} bands, so that range "
                "cannot take percentiles of both; name the bands in the key bands, or give the range in numbers."
            )
        flat = np.concatenate([bands.reshape(len(bands), -1).astype(np.float32) for bands in values], axis=1)
        finite = [band[np.isfinite(band)] for band in flat]
        empty = [(self.bands or range(1, 1 + len(flat)))[place] for place, band in enumerate(finite) if not band.size]
        if empty:
            raise InputError(
                f"Band {empty[0]} has no value but no data in {len(sample)} images, {sample[0]} among them, so that "
                f"range cannot take percentiles of it; give its range in numbers, or leave the band out."
            )
        pairs = [np.percentile(band, self.percentiles).astype(np.float32) for band in finite]
        # A constant band gets a range that is not empty, in the number type of ``stretch``.
        ranges = tuple((float(low), float(max(high, np.nextafter(low, np.float32(np.inf))))) for low, high in pairs)
        return replace(self, ranges=ranges, percentiles=None)

    def stretch(self, values: np.ndarray) -> np.ndarray:
        """Values (B, H, W) -> uint8 (H, W, C); with ranges, NaN and nodata become 0."""
        if self.ranges:
            low, high = (np.array(side, np.float32)[:, None, None] for side in zip(*self.ranges, strict=True))
            scaled = (values.astype(np.float32) - low) * (255 / (high - low))
            values = np.rint(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255))
        values = np.moveaxis(values.astype(np.uint8), 0, -1)
        return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else np.ascontiguousarray(values)


def read_bands(path: str | os.PathLike, rule: BandRule, orientation: int = 1) -> np.ndarray:
    """Return the bands of an image file as the rule says, uint8 (H, W, C) in its order, turned by the orientation.

    Raises:
        InputError: rasterio is not installed, the file cannot be decoded, has several pages, a palette, another number
            of bands, or more than 8 bits without a range.
    """
    values = rule.stretch(_read(path, rule))
    if orientation in _TURNS:
        turns, mirrored = _TURNS[orientation]
        values = np.ascontiguousarray(np.rot90(values[:, ::-1] if mirrored else values, turns))
    return values


def _read(path: str | os.PathLike, rule: BandRule, side: int | None = None) -> np.ndarray:
    """The rule's bands as stored (B, H, W), with ``side`` shrunk to at most that; nodata as NaN."""
    rasterio = import_rasterio(path, "the keys bands and range")
    try:
        with open(path, "rb") as opened:
            driver = _DRIVERS.get(opened.read(2))
    except OSError as error:
        raise InputError(f"{path}: the image file cannot be read ({error.strerror}); check the data set.") from error
    if driver is None:
        raise InputError(f"{path}: the image file is no TIFF, PNG, JPEG, WebP or BMP; replace it.")
    try:
        with rasterio.open(os.fspath(path), driver=driver) as file:
            if file.width * file.height > LARGEST_IMAGE:
                raise InputError(
                    f"{path}: the image has more than {LARGEST_IMAGE // 10**6} million pixels; cut or shrink it."
                )
            bands = checked_bands(path, file, rule)
            shape = None if side is None else (min(file.height, side), min(file.width, side))
            return stored_values(file, bands, rule, out_shape=shape and (len(bands), *shape))
    except rasterio.errors.RasterioError as error:
        raise InputError(
            f"{path}: the image file cannot be decoded ({one_line(error, 200)}); replace it or take it out of the data "
            "set."
        ) from error


def import_rasterio(path: str | os.PathLike, need: str) -> ModuleType:
    """Return rasterio; InputError, for the file ``path`` and the ``need`` for it, if it cannot be imported."""
    try:
        import rasterio
        import rasterio.errors
        import rasterio.shutil
    except ImportError as error:
        raise InputError(
            f"{path}: {need} need rasterio ({one_line(error)}); install it by pip install 'rc2l_d2[raster]'."
        ) from error
    # Photographs have no place on the earth.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def stored_values(file: Any, bands: Sequence[int], rule: BandRule, **part: Any) -> np.ndarray:
    """Return bands of an opened file as stored (B, h, w), nodata as NaN if the rule has ranges.

    ``part``: arguments of rasterio's ``read`` for a window or a smaller size.
    """
    values = file.read(bands, **part)
    if file.nodata is not None and np.isfinite(file.nodata) and rule.ranges:
        return np.where(values == file.nodata, np.float32(np.nan), values.astype(np.float32))
    return values


def checked_bands(path: str | os.PathLike, file: Any, rule: BandRule) -> list[int]:
    """Return the numbers of the bands to read of an opened file; InputError if the rule does not fit it."""
    if file.subdatasets:
        raise InputError(f"{path}: the image has {len(file.subdatasets)} pages; save its bands in one page.")
    if file.colorinterp[0].name == "palette":
        raise InputError(f"{path}: the image has a palette; save it as colours, or leave bands and range out.")
    bands = list(rule.bands) or list(range(1, file.count + 1))
    if not rule.bands and file.count not in (1, 3):
        raise InputError(
            f"{path}: the image has {file.count} bands; say which to use in the key bands of the data set's YAML file."
        )
    if max(bands) > file.count:
        raise InputError(
            f"{path}: the image has {file.count} band{'s' if file.count > 1 else ''}, but the key bands of the data "
            f"set names {max(bands)}; correct it."
        )
    kind = next((kind for kind in file.dtypes if kind != "uint8"), "")
    if kind and not rule.ranges:
        raise InputError(
            f"{path}: the image has {kind} values; give the range that becomes 0 to 255 in the key range of the data "
            f"set's YAML file, as range: [0, 3000] (rc2l-quickstart: --range 0,3000)."
        )
    if kind.startswith("complex"):
        raise InputError(f"{path}: the image has {kind} values; save their magnitudes.")
    for band, (_, high) in zip(bands, rule.ranges * (len(bands) if len(rule.ranges) == 1 else 1), strict=False):
        dtype = np.dtype(file.dtypes[band - 1])
        if dtype.kind in "iu" and high > 2 * (np.iinfo(dtype).max + 1):
            raise InputError(
                f"{path}: the image has {dtype} values, of which a range up to {high:g} would leave a dark image; give "
                "images of the kind that the key range is for, or correct it."
            )
    return bands


def _is_pair(value: Any) -> bool:
    numbers = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) in (int, float) for n in value)
    return numbers and value[0] < value[1]


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)

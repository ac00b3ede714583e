"""Image and label files, and images in tar shards, to arrays; every error names the file.

``read_image`` and ``read_raw_label`` are where a new format joins.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ...errors import InputError
from ..datasets.shards import ShardImage
from ..labels.drawn import DrawnLabel
from ..labels.label_map import LabelMap, UnlistedValueError, color_text
from .bands import BandRule, read_bands
from .masks import hidden_color, is_mask_in_alpha, lossy_format, mask_levels, number_of_pages, stores_white_as_0
from .plain import JPEG_START, LARGEST_IMAGE, PNG_START, frames, header, not_plain

_Read = TypeVar("_Read")
IMAGE_FORMATS = ("BGR", "RGB")
# OpenCV would print its own messages about damaged TIFF and WebP files, without their names.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
_JPEG_END, _JPEG_SCAN = b"\xff\xd9", 0xDA
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers, whose segments hold the size
_PNG_END = b"IEND"
# Divisor of height and width -> OpenCV's flag.
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
# Pillow's modes whose one channel holds the values themselves; "P" holds palette indices, which are the labels.
_VALUE_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
_COLOR_MODES = ("RGB", "RGBA", "LA", "PA")
# Pillow's errors for damaged files and for more than LARGEST_IMAGE; an unidentified image is an OSError.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class ImageDepthError(InputError):
    """An image is not plain 8-bit colour, and its data set has no rule to read it; ``kind`` is what it is."""

    advice = (
        "say how to read such images in the data set's YAML file, by bands: [1] for grey (three equal channels, as a "
        "backbone pretrained on colours takes them) or bands: [1, 2, 3], with range: [0, 3000] for other than 8-bit "
        "values (rc2l-quickstart: --bands 1,2,3 --range 0,3000)"
    )

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class LabelColorError(InputError):
    """A label file holds colours where class indices are expected."""


class LabelLossyError(InputError):
    """A label file has a format that changes values."""


class LabelValueError(InputError):
    """A label file holds values or colours that are no class."""


def read_image(path: str | os.PathLike, format: str = "BGR", rule: BandRule | None = None) -> np.ndarray:
    """Read an image as uint8 (H, W, C), upright; C is 3 but for a rule of more bands.

    Grey becomes three equal channels. Alpha is dropped, nothing is blended. EXIF rotation is applied, a colour profile
    is not; datasets/README.md has the table of all formats. OpenCV decodes the file, in 40 to 80 % of the time of
    Pillow.

    Args:
        path: of the file.
        format: channel order, "BGR" or "RGB", of the first three channels.
        rule: bands and range of the data set's images; None refuses what is not plain 8-bit colour.

    Raises:
        InputError: the file cannot be read, is no image, ends too early, is too large or not plain 8-bit colour; or an
            unknown format.
    """
    check_format(format)
    if rule is None:
        image = _decode(path, _read_bytes(path))
    else:
        image = swapped(read_bands(path, rule, exif_orientation(path)))
    return swapped(image) if format == "RGB" else image


def swapped(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) with its first and third channel exchanged: BGR to RGB and back."""
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image[..., [2, 1, 0, *range(3, image.shape[2])]]


def check_format(format: str) -> str:
    """Return the channel order; refuse an unknown one with an InputError."""
    if format not in IMAGE_FORMATS:
        raise InputError(f"INPUT.FORMAT is '{format}'; set it to one of {', '.join(IMAGE_FORMATS)}.")
    return format


def read_image_reduced(
    path: str | os.PathLike, short_edge: int, rule: BandRule | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image that will be resized to ``short_edge`` pixels; 0 keeps the size.

    A JPEG is decoded at an eighth, a quarter or half of its size, which is faster, where that divides both edges and
    leaves ``short_edge`` pixels. Everything else is read whole. Raises as :func:`read_image`.

    Returns:
        uint8 (h, w, C) in BGR order, upright; and the file's own height and width, upright.
    """
    if rule is not None:
        image = read_image(path, rule=rule)
        return image, image.shape[:2]
    data = _read_bytes(path)
    height, width = _jpeg_header(data)[1] if data.startswith(JPEG_START) else (0, 0)
    for divisor, flag in _REDUCED.items():
        # A remainder at the edges would be stretched to a whole pixel, and shift the image against its label.
        divides = height % divisor == width % divisor == 0
        if short_edge and divides and min(height, width) >= divisor * short_edge:
            image = _decode(path, data, flag)
            # EXIF may have rotated it.
            return image, (image.shape[0] * divisor, image.shape[1] * divisor)
    image = _decode(path, data)
    return image, image.shape[:2]


def read_label(path: str | os.PathLike, label_map: LabelMap | DrawnLabel | None = None) -> np.ndarray:
    """Read a label image, or draw annotations, as class indices and ignore value, uint8 (H, W).

    Args:
        path: see :func:`read_raw_label`; or the file with the annotations.
        label_map: the meaning of the raw values; None takes them as class indices. Or the image's annotations.

    Raises:
        LabelColorError: colours without a map of colours.
        LabelValueError: values above 255 without a map, or values that the map does not list.
        InputError: the file cannot be read or decoded, is a JPEG, or holds neither values nor colours.
    """
    if isinstance(label_map, DrawnLabel):
        return label_map.draw(os.fspath(path))
    threshold = None if label_map is None else label_map.threshold
    if threshold is None:
        values = read_raw_label(path, label_map is not None and label_map.colors)
    else:
        values = open_label(path, mask_levels)
    if label_map is not None:
        try:
            return label_map.apply(values.astype(np.uint8) if values.dtype == bool else values)
        except UnlistedValueError as error:
            raise LabelValueError(f"{path}: {error}.") from error
    if values.dtype != np.uint8 and values.size and (values.min() < 0 or values.max() > 255):
        raise LabelValueError(
            f"{path}: the label image has values up to {values.max()}, but class indices are at most 255; define its "
            f"values in the key label_map of the data set's YAML file."
        )
    return values.astype(np.uint8, copy=False)


def read_raw_label(path: str | os.PathLike, colors: bool = False) -> np.ndarray:
    """Read a label image before a label map: integers (H, W), or with ``colors`` uint8 (H, W, 3) in RGB.

    Pillow decodes the file. Values are the indices of a palette image, or those of one channel with 8 or 16 bits; 1-bit
    images hold 0 and 1, and grey ones of 2 or 4 bits are scaled to 8 as PNG defines it. A grey image saved with three
    equal channels is read as that one channel. As colours, every 8-bit image is read as RGB, a palette image by its
    palette. Alpha is dropped. Raises as :func:`read_label`.
    """

    def read(image: Image.Image) -> tuple[str, bool, np.ndarray]:
        kind = lossy_format(image)
        if kind:
            raise LabelLossyError(
                f"{path}: the label file is a {kind}, which changes values; save labels as PNG, or give a threshold if "
                f"they are masks of one object (threshold: 128 in the data set's YAML file, --threshold 128)."
            )
        mode = image.mode
        as_colors = mode in _COLOR_MODES or (colors and mode in ("1", "L", "P"))
        values = np.array(image.convert("RGB") if as_colors else image)
        alpha = np.array(image.getchannel("A")) if mode in ("RGBA", "LA", "PA") else None
        if alpha is not None and is_mask_in_alpha(values, alpha):
            raise LabelValueError(
                f"{path}: the label image has one colour, and its mask in the alpha channel; give a threshold "
                f"(threshold: 128 in the data set's YAML file, --threshold 128), or save it with one channel."
            )
        if alpha is not None and (hidden := hidden_color(values, alpha)):
            raise LabelValueError(
                f"{path}: the label image has transparent pixels, which an eraser may have made, with the colour "
                f"{hidden} of visible ones; save it without transparency (flattened)."
            )
        return mode, as_colors, values

    mode, as_colors, values = open_label(path, read)
    if not as_colors and mode not in _VALUE_MODES:
        raise InputError(
            f"{path}: the label image is of type {mode}; save it as PNG with one channel, a palette or 8-bit RGB."
        )
    if colors and not as_colors:
        raise InputError(
            f"{path}: the label image has 16-bit values, but label_map lists colours; save it as 8-bit RGB."
        )
    return _equal_channels(path, values) if as_colors and not colors else values


def open_label(path: str | os.PathLike, read: Callable[[Image.Image], _Read]) -> _Read:
    """Return ``read`` of the label image, turned as its own EXIF orientation says."""
    try:
        with _opened(path) as image:
            if image.mode in _COLOR_MODES and _has_16_bits(image):
                raise LabelValueError(
                    f"{path}: the label image has colours of 16 bits, which would be cut to 8; save it as PNG with one "
                    f"channel or 8-bit RGB."
                )
            with _pillow():
                pages = number_of_pages(image)
            if pages > 1:
                raise LabelValueError(
                    f"{path}: the label image has {pages} pages, of which the first alone would be read; save each as "
                    f"a file of its own."
                )
            if stores_white_as_0(image):
                raise LabelValueError(
                    f"{path}: the label image is a TIFF that stores white as 0, as ImageJ does with an inverted lookup "
                    f"table, so that the values it shows are not those it stores; save it with black as 0."
                )
            kept = image.format, image.filename
            with _pillow():
                image.load()
            if orientation_of(image) != 1:
                # Format and name, by which files that change values are known, are lost in the copy.
                with _pillow():
                    image = ImageOps.exif_transpose(image)
                image.format, image.filename = kept
            return read(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the label file does not exist; complete the data set or its list.") from error
    except InputError:
        raise
    except MemoryError as error:
        # Pillow reserves the length that a part of a PNG file says it has.
        raise InputError(
            f"{path}: the label file is damaged or needs more memory than there is; replace it or free memory."
        ) from error
    except _DECODING_ERRORS as error:
        kind = not_plain(_read_bytes(path)) if isinstance(error, UnidentifiedImageError) else ""
        reason = f"image is {kind}; save it with one band of values" if kind else "file cannot be decoded; replace it"
        raise InputError(f"{path}: the label {reason}.") from error


@contextlib.contextmanager
def _pillow() -> Iterator[None]:
    """Raise what Pillow raises for damaged files and what elsewhere is a programming error as an OSError."""
    try:
        yield
    except (TypeError, KeyError, IndexError) as error:
        raise OSError(f"{type(error).__name__} of Pillow: {error}") from error


def _opened(file: str | os.PathLike | BinaryIO) -> Image.Image:
    with _pillow():
        return Image.open(file)


def _has_16_bits(image: Image.Image) -> bool:
    """Whether an opened file stores colours of 16 bits, as its raw mode says ("RGB;16B"); Pillow cuts them to 8."""
    # Other arguments of a decoder are numbers, some of them file descriptors and lengths.
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    return any(isinstance(value, str) and "16" in value for values in arguments for value in values)


def exif_orientation(path: str | os.PathLike) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 (upright) without or if the file cannot be read."""
    try:
        with _opened(path) as image:
            return orientation_of(image)
    except _DECODING_ERRORS:
        return header(path)[1]  # Pillow knows few kinds of bands.


def turned_by_exif(image: str | os.PathLike, label: str | os.PathLike) -> str:
    """Return why an image and its label may not fit: the EXIF orientation that only the image has; "" without."""
    orientation = exif_orientation(image)
    if orientation == 1 or exif_orientation(label) != 1:
        return ""
    return f"EXIF orientation {orientation} turns the image, and the label has none"


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8."""
    with _pillow():
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def read_palette(path: str | os.PathLike) -> np.ndarray | None:
    """Return the colours of a palette image by index, uint8 (n, 3) in RGB; None for every other file."""
    try:
        with _opened(path) as image, _pillow():
            colors = image.getpalette("RGB") if image.mode == "P" else None
    except _DECODING_ERRORS:
        return None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def _equal_channels(path: str | os.PathLike, colors: np.ndarray) -> np.ndarray:
    """Return the one channel of a grey image saved as RGB: (H, W, 3) -> (H, W)."""
    different = (colors[..., :1] != colors[..., 1:]).any(-1)
    if different.any():
        raise LabelColorError(
            f"{path}: the label image holds colours ('{color_text(colors[different][0])}' among them) where class "
            f"indices are expected; list the colours in the key label_map of the data set's YAML file (label_map: "
            f"palette if they are its palette's), or save labels with one channel."
        )
    return np.ascontiguousarray(colors[..., 0])


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        if isinstance(path, ShardImage):
            return path.read_bytes()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: the image file cannot be read ({error.strerror}); check the data set.") from error


def _decode(path: str | os.PathLike, data: bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode the content of the file ``path``: uint8 (h, w, 3) in BGR order."""
    pixels, is_truncated = _header(data)
    if pixels > LARGEST_IMAGE:
        raise InputError(f"{path}: the image has more than {LARGEST_IMAGE // 10**6} million pixels; cut or shrink it.")
    if (number := frames(data)) > 1:
        raise InputError(
            f"{path}: the image has {number} frames, of which the first alone would be read; save each as a file, or "
            f"all as a video."
        )
    deep = not_plain(data)
    if deep:
        raise ImageDepthError(f"{path}: the image is {deep}, not plain 8-bit colour; {ImageDepthError.advice}.", deep)
    image = None
    if data and not is_truncated:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error:  # Larger than OpenCV's limit; other files that cannot be decoded give None.
            pass
    if image is None:
        reason = "ends too early" if is_truncated else "is not an image that can be decoded" if data else "is empty"
        other = "read it by the key bands (rasterio knows more compressions), " if data[:2] in (b"II", b"MM") else ""
        raise InputError(f"{path}: the image file {reason}; {other}replace it or take it out of the data set.")
    return image


def _header(data: bytes) -> tuple[int, bool]:
    """Return the number of pixels (0: unknown), and whether a JPEG or PNG lacks its end, before anything is decoded.

    OpenCV fills a truncated image with grey and, before version 5, reports no error.
    """
    if data.startswith(JPEG_START):
        scan, size = _jpeg_header(data)
        # A thumbnail before the scan may have an end marker of its own.
        return math.prod(size), data.rfind(_JPEG_END, scan) < 0
    if data.startswith(PNG_START):
        size = struct.unpack(">II", data[16:24]) if len(data) >= 24 else (0,)
        return math.prod(size), _png_lacks_its_end(data)
    try:
        with _opened(io.BytesIO(data)) as image:
            return image.width * image.height, False
    except Image.DecompressionBombError:
        return LARGEST_IMAGE + 1, False
    except _DECODING_ERRORS:
        return 0, False


def _jpeg_header(data: bytes) -> tuple[int, tuple[int, int]]:
    """Return where the first scan begins; height and width, before any rotation."""
    place, size = len(JPEG_START), (0, 0)
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _JPEG_SCAN:
        marker = data[place + 1]
        if marker in _JPEG_FRAMES and place + 9 <= len(data):
            size = struct.unpack(">HH", data[place + 5 : place + 9])
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place, size


def _png_lacks_its_end(data: bytes) -> bool:
    """Whether a chunk exceeds the file or the last one is missing: OpenCV allocates the size that a chunk claims."""
    place = len(PNG_START)
    while place + 12 <= len(data):  # length, type, content, checksum
        if data[place + 4 : place + 8] == _PNG_END:
            return False
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return True

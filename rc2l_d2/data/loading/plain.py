"""Whether an image file is plain 8-bit colour, which needs no rule of a data set to be read."""

from __future__ import annotations

import io
import math
import os
import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.TiffTags import TAGS_V2

# Pixels. A larger file is damaged or has to be cut: an image takes three bytes per pixel, a label one. Pillow has the
# same bound.
LARGEST_IMAGE = 2 * Image.MAX_IMAGE_PIXELS
PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "La", "RGBa", "RGBX", "CMYK", "YCbCr")
# Numbers of the tags, of sample formats and of photometric interpretations in TIFF 6.0.
TAG = {info.name: number for number, info in TAGS_V2.items()}
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
_GREY_OR_PALETTE, _RGB, _CMYK, _YCBCR = (0, 1, 3), 2, 5, 6
REDUCED_OR_MASK = 1 | 4
_PAGES = 16  # that are looked at
# Netpbm's header, with comments: kind, width, height, and the largest value, group 1.
_PNM = re.compile(rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*\d+){2}\s+(?:#[^\n]*\n\s*)*(\d+)\s")
# Pillow's readers of headers; Image.open would refuse large images.
_HEADERS = {JPEG_START: JpegImagePlugin.JpegImageFile, b"\x89P": PngImagePlugin.PngImageFile}
# Of Pillow, for damaged files.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, KeyError, IndexError,
    Image.DecompressionBombError,
)  # fmt: skip


def not_plain(data: bytes) -> str:
    """Return what makes an image file's content more than plain 8-bit colour, "" for plain and for unknown files.

    Plain are 8-bit grey, palette and colour, grey and colour with alpha in other formats than TIFF, where a further
    band may hold anything, and 1 to 4 bits.
    """
    if data.startswith(PNG_START):
        return "a PNG with 16-bit values" if len(data) > 24 and data[24] == 16 else ""
    if data.startswith(_TIFF_STARTS):
        return _tiff(data)
    if data.startswith(JPEG_START):
        return ""
    if (levels := _PNM.match(data)) and int(levels[1]) != 255:
        return f"a {'PGM' if data[1] in b'25' else 'PPM'} with values up to {int(levels[1])}"
    try:
        with Image.open(io.BytesIO(data)) as image:
            return "" if image.mode in _PLAIN_MODES else f"a {image.format} with values of type {image.mode}"
    except PILLOW_ERRORS:
        return ""


def frames(data: bytes) -> int:
    """Return how many frames an image file's content has: an animated GIF, PNG or WebP more than one."""
    animated_png = data.startswith(PNG_START) and b"acTL" in data[: max(0, data.find(b"IDAT"))]
    if not animated_png and data.startswith((PNG_START, *_TIFF_STARTS, JPEG_START)):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1)
    except PILLOW_ERRORS:
        return 1


def stores_one_bit(path: str | os.PathLike) -> bool:
    """Return whether an image file has grey values of 1 bit, which PNG defines as black and white, 0 and 255."""
    try:
        with Image.open(path) as image:
            return image.mode == "1"
    except PILLOW_ERRORS:
        return False


def header(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """Return height and width, and the orientation, 1 (upright) to 8, in the header of a TIFF, JPEG or PNG.

    Of images of any size and bands; of a PNG it may take as long as decoding it. Zeros and 1 for other files and
    without a readable header.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(0)
            if start in (b"II", b"MM"):  # Pillow knows few kinds of bands.
                tags = next(tiff_pages(file))
                size, orientation = (tags[TAG["ImageLength"]], tags[TAG["ImageWidth"]]), tags.get(TAG["Orientation"], 1)
            elif start in _HEADERS:
                image = _HEADERS[start](file)
                size = image.height, image.width
                # Of a PNG without EXIF before its pixels, Pillow decodes these to find EXIF behind them.
                small = math.prod(size) <= LARGEST_IMAGE
                exif = image.getexif() if small else Image.Image.getexif(image)
                orientation = exif.get(TAG["Orientation"], 1)
            else:
                return (0, 0), 1
    except (*PILLOW_ERRORS, StopIteration):
        return (0, 0), 1
    return size, orientation if orientation in range(1, 9) else 1


def _tiff(data: bytes) -> str:
    pages = islice(tiff_pages(io.BytesIO(data)), _PAGES)
    first = next(pages, None)
    if first is None:
        return ""
    bands, bits = _number(first, "SamplesPerPixel", 1), _number(first, "BitsPerSample", 1)
    kind = _FORMATS.get(_number(first, "SampleFormat", 1), "unknown")
    photometric = _number(first, "PhotometricInterpretation", 1)
    # Not a page more than needed: each of a damaged file may have 65,535 tags.
    if any(not _number(page, "NewSubfileType", 0) & REDUCED_OR_MASK for page in pages):
        return "a TIFF with several pages"
    expected = {_RGB: 3, _CMYK: 4, _YCBCR: 3, **dict.fromkeys(_GREY_OR_PALETTE, 1)}.get(photometric)
    if bits <= 8 and kind == "unsigned" and bands == expected:
        return ""
    marked = ", of which 3 are marked as colours" if photometric == _RGB and bands > 3 else ""
    return f"a TIFF with {bands} band{'s' if bands > 1 else ''}{marked}, {bits}-bit {kind}"


def _number(page: dict[int, Any], name: str, default: int) -> int:
    """Return the first value of a tag, or the default if it is missing or, in a damaged file, not an integer."""
    value = page.get(TAG[name], default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def tiff_pages(file: BinaryIO) -> Iterator[dict[int, Any]]:
    """Yield the tags of each page of a TIFF by their numbers; none from the first that cannot be read on."""
    try:
        start = file.read(16)
        directory = TiffImagePlugin.ImageFileDirectory_v2(start if b"+" in start[2:4] else start[:8])
        while directory.next:
            file.seek(directory.next)
            directory.load(file)
            yield dict(directory)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError, TypeError):
        return

"""What a label file can hold: whether its format keeps values, and masks of one object before their threshold."""

from __future__ import annotations

from itertools import islice

import numpy as np
from PIL import Image, TiffImagePlugin

from ..labels.label_map import packed_colors
from .plain import REDUCED_OR_MASK, TAG, tiff_pages

# Pillow's formats that change values, or may: of the last three, files without loss cannot be told from others.
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF", "HEIF": "HEIF"}
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_RIFF_HEADER = 12


def lossy_format(image: Image.Image) -> str:
    """Return the name of an opened file's format if it changes values, else ""."""
    if image.format == "WEBP":
        return "" if _is_lossless_webp(image) else "lossy WebP"
    if image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF:
        return "TIFF with JPEG compression" if "jpeg" in image.info["compression"] else "TIFF with WebP compression"
    return _LOSSY.get(image.format or "", "")


def stores_white_as_0(image: Image.Image) -> bool:
    """Return whether an opened file is a TIFF of more than 1 bit that Pillow inverts."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return tags.get(TAG["PhotometricInterpretation"]) == 0 and image.mode != "1"


def number_of_pages(image: Image.Image) -> int:
    """Return how many pages or frames an opened file has: smaller copies of the first and its masks do not count."""
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a JPEG with a preview
    if pages == 1 or image.format != "TIFF":
        return pages
    with open(image.filename, "rb") as file:
        _, *others = islice(tiff_pages(file), pages)
    return 1 + sum(not page.get(TAG["NewSubfileType"], 0) & REDUCED_OR_MASK for page in others)


def hidden_color(colors: np.ndarray, alpha: np.ndarray) -> str:
    """Return a colour of transparent pixels that visible ones have too, as an eraser leaves it.

    Args:
        colors: uint8 (H, W, 3).
        alpha: uint8 (H, W), 0 where transparent.

    Returns:
        ``#rrggbb``, or "" without.
    """
    packed = packed_colors(colors)
    found = np.intersect1d(packed[alpha == 0], packed[alpha > 0])
    return f"#{found[0]:06x}" if len(found) else ""


def mask_levels(image: Image.Image) -> np.ndarray:
    """Return what a mask's threshold is compared with: numbers (H, W), uint8 unless the file has more bits.

    It is the value of one channel, the largest of a colour's channels (a palette's colours count, not its indices), and
    255 for the ones of a 1-bit image. If the visible pixels have one colour alone, alpha is the mask; other transparent
    pixels count as 0.
    """
    if image.mode == "1":
        return np.array(image, np.uint8) * np.uint8(255)
    if image.mode == "L" and "transparency" not in image.info or not _has_8_bits(image):
        return np.array(image)
    pixels = np.array(image.convert("RGBA"))
    colors, alpha = pixels[..., :3], pixels[..., 3]
    if is_mask_in_alpha(colors[alpha > 0], alpha):
        return alpha
    return np.where(alpha < 128, np.uint8(0), colors.max(axis=-1))


def is_mask_in_alpha(colors: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether alpha, uint8 (H, W), differs between pixels whose colours (..., C) do not."""
    colors = colors.reshape(-1, colors.shape[-1])
    return len(colors) > 0 and alpha.min() != alpha.max() and bool((colors == colors[0]).all())


def _has_8_bits(image: Image.Image) -> bool:
    return image.mode in ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def _is_lossless_webp(image: Image.Image) -> bool:
    """Whether every frame of a WebP file is a VP8L chunk; frames of animations are inside other chunks."""
    with open(image.filename, "rb") as file:
        data = file.read()
    place, kinds = _RIFF_HEADER, set()
    while place + 8 <= len(data):
        kinds.add(data[place : place + 4])
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return b"VP8L" in kinds and not {b"VP8 ", b"ANMF"} & kinds

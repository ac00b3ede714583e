"""Image and label files to arrays, with the file's name in every complaint."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

IMAGE_FORMATS = ("BGR", "RGB")
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# PIL's modes whose one channel holds the values themselves; "P" holds palette indices, which are the labels.
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


def read_image(path: str | os.PathLike, format: str = "BGR") -> np.ndarray:
    """Read an image as uint8 (H, W, 3), upright.

    The EXIF rotation is applied; grey becomes three equal channels, alpha is dropped, 16 bits become 8.

    Args:
        path: any file that OpenCV decodes.
        format: the channel order, "BGR" or "RGB".

    Raises:
        InputError: the file cannot be read, is no image, or ends too early; or an unknown format.
    """
    if format not in IMAGE_FORMATS:
        raise InputError(f"INPUT.FORMAT is '{format}'; set it to one of {', '.join(IMAGE_FORMATS)}.")
    data = _read_bytes(path)
    # OpenCV fills the rest of a truncated JPEG with grey and says nothing; an end marker occurs nowhere else.
    truncated = data.startswith(_JPEG_START) and _JPEG_END not in data
    image = None
    if data and not truncated:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # Larger than OpenCV's limit; a file that is no image gives None.
            pass
    if image is None:
        reason = "ends too early" if truncated else "is empty" if not data else "is not an image that can be decoded"
        raise InputError(f"{path}: the image file {reason}; replace it or take it out of the data set.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if format == "RGB" else image


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a label image as uint8 (H, W): palette indices as they are, or the one channel's values.

    Raises:
        InputError: the file cannot be read or decoded, has several channels, or has values above 255.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            values = np.array(picture) if mode in _LABEL_MODES else None
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the label file does not exist; complete the data set or correct its list."
        ) from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: the label file cannot be decoded; replace it.") from error
    if values is None:
        raise InputError(
            f"{path}: the label image is of type {mode}, with several channels; convert it to one channel (or a "
            f"palette) whose values are class indices."
        )
    if values.dtype != np.uint8:
        if values.size and (values.min() < 0 or values.max() > 255):
            raise InputError(f"{path}: the label image has values up to {values.max()}; they must be at most 255.")
        values = values.astype(np.uint8)
    return values


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: the image file cannot be read ({error.strerror}); check the data set.") from error

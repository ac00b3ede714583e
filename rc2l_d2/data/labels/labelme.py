"""labelme's JSON files, one for each image: shapes with names, drawn as labelme's own export draws them."""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...errors import InputError, one_line
from ..loading.plain import PILLOW_ERRORS
from .drawn import DrawnLabel, DrawnLabels, lies_outside, stated_size, upright_size
from .json_file import read_json
from .label_map import UnlistedValueError

# In pixels, as in labelme's shape_to_mask.
_LINE_WIDTH, _POINT_RADIUS = 10, 5
# Points that each shape has, at least and at most.
_POINTS = {
    "polygon": (3, None), "rectangle": (2, 2), "oriented_rectangle": (4, 4), "circle": (2, 2), "line": (2, 2),
    "linestrip": (2, None), "point": (1, 1), "mask": (2, 2),
}  # fmt: skip
# Coordinates beyond that come from a damaged file; Pillow would draw for minutes.
_FARTHEST = 2**20


@dataclass(frozen=True)
class LabelmeLabels(DrawnLabels):
    """The files of a folder; each has the name of its image."""

    def of(self, file: str, image: str, name: str, image_id: str) -> LabelmeLabel | None:
        """See :meth:`DrawnLabels.of`."""
        return LabelmeLabel(self.classes, image) if os.path.isfile(file) else None


@dataclass(frozen=True)
class LabelmeLabel(DrawnLabel):
    """The shapes of one image. They are drawn in the order of the file: where two overlap, the later one counts."""

    image: str  # its size counts where the file states none

    def draw(self, file: str) -> np.ndarray:
        """See :meth:`DrawnLabel.draw`."""
        content = read_labelme(file)
        named = os.path.splitext(str(content.get("imagePath") or "").replace("\\", "/").split("/")[-1])[0]
        if named and named != os.path.splitext(os.path.basename(self.image))[0]:
            raise InputError(
                f"{file}: its imagePath is '{content['imagePath']!s:.100}', but its name is that of {self.image}; "
                f"rename it or correct imagePath."
            )
        try:
            size = stated_size(content.get("imageHeight"), content.get("imageWidth")) or upright_size(self.image)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{file}: {error}; correct it.") from error
        canvas = Image.fromarray(self.classes.canvas(size))
        for number, shape in enumerate(content["shapes"], start=1):
            try:
                canvas = draw_shape(canvas, shape, self.classes.target(shape_name(shape)))
            except UnlistedValueError as error:
                raise InputError(f"{file}: {error}.") from error
            except ValueError as error:
                raise InputError(f"{file}: shape {number} {one_line(error)}; correct it in labelme.") from error
        return np.array(canvas)


def read_labelme(file: str) -> dict[str, Any]:
    """The content of a labelme file, with a list of "shapes"; InputError if it cannot be read or is none."""
    content = read_json(file, "label file", "complete the data set")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{file}: this is no file of labelme (it has no list of shapes); replace it.")
    return content


def shape_name(shape: Any) -> str:
    """The name of a shape's class; ValueError if it has none."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
        raise ValueError("has no label")
    return shape["label"]


def draw_shape(canvas: Image.Image, shape: dict[str, Any], value: int) -> Image.Image:
    """Fill a shape of a labelme file with ``value``, and its outline; ValueError if that is impossible.

    The pixels are those of labelme's ``shapes_to_label``: Pillow's, with lines 10 pixels wide, and points
    as discs of radius 5.

    Args:
        canvas: 8-bit grey, of the image's size; it is changed.
    """
    kind = shape.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in _POINTS:
        raise ValueError(f"is of the type {kind!r}, which labelme does not export")
    points = _points(shape.get("points"), kind)
    filled = kind not in ("circle", "point", "line", "linestrip")  # The others may reach into the image.
    if filled and lies_outside(np.array(points), canvas.size[::-1]):
        raise ValueError(
            f"is a {kind} outside of its image of {canvas.width}x{canvas.height} pixels (was that shrunk or cut?)"
        )
    draw = ImageDraw.Draw(canvas)
    match kind:
        case "circle":
            (x, y), (right, bottom) = points
            radius = math.sqrt((x - right) ** 2 + (y - bottom) ** 2)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=value, fill=value)
        case "rectangle":
            (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
            draw.rectangle((left, top, right, bottom), outline=value, fill=value)
        case "line" | "linestrip":
            draw.line(points, fill=value, width=_LINE_WIDTH)
        case "point":
            ((x, y),) = points
            box = (x - _POINT_RADIUS, y - _POINT_RADIUS, x + _POINT_RADIUS, y + _POINT_RADIUS)
            draw.ellipse(box, outline=value, fill=value)
        case "mask":
            return _pasted(canvas, shape.get("mask"), points, value)
        case _:
            draw.polygon(points, outline=value, fill=value)
    return canvas


def _points(raw: Any, kind: str) -> list[tuple[float, float]]:
    least, most = _POINTS[kind]
    try:
        array = np.array(raw, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    usable = array.ndim == 2 and array.shape[1] == 2 and least <= len(array) <= (most or len(array))
    if not usable or not (np.abs(array) < _FARTHEST).all():
        raise ValueError(f"is a {kind} without its points")
    return [(x, y) for x, y in array.tolist()]


def _pasted(canvas: Image.Image, raw: Any, points: list[tuple[float, float]], value: int) -> Image.Image:
    """The canvas with a mask, a PNG in base64, whose corner pixels are the two points."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(raw, validate=True))) as image:
            mask = np.array(image).astype(bool)
    except PILLOW_ERRORS as error:
        raise ValueError("has a mask that cannot be decoded") from error
    label = np.array(canvas)
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    if mask.shape != (bottom - top + 1, right - left + 1) or min(left, top) < 0:
        raise ValueError("has a mask of another size than its points enclose")
    covered = label[top : bottom + 1, left : right + 1]
    if covered.shape != mask.shape:
        raise ValueError("has a mask that leaves the image")
    covered[mask] = value
    return Image.fromarray(label)

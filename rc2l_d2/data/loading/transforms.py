"""Weak and strong views as plain functions of arrays and a NumPy generator.

Images are uint8 (H, W, C) in OpenCV's BGR order, labels uint8 (H, W); no function changes its input. Of more than three
bands, the first three count as colours: saturation, hue and grey change them alone. The weak geometry
(resize, flip, crop) is sampled once and applied to everything that has to stay aligned; the strong view changes only
the colours of the weak one. Colours change before padding, so that padding neither bleeds into a blur nor counts in a
mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

IMAGE_PADDING = 128
_RESIZED_CHANNELS = 4  # OpenCV resizes no more by area


@dataclass(frozen=True)
class GeometrySettings:
    """Distribution of the weak geometry; lengths in pixels."""

    short_edges: tuple[int, ...]  # of the shortest edge: a choice, or the two ends of a range; 0 keeps the size
    sampling: str  # "choice" or "range"
    long_edge: int  # the longest edge that a resize may give
    crop: tuple[int, int]  # (h, w) of the result
    flip: bool  # whether half of the images are mirrored left to right


@dataclass(frozen=True)
class Geometry:
    """One sampled geometry: resize to ``size`` (h, w), mirror, then cut the ``crop`` (h, w) at (``top``, ``left``).

    A resized image smaller than the crop is padded, always at the bottom and at the right.
    """

    size: tuple[int, int]
    flip: bool
    top: int
    left: int
    crop: tuple[int, int]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the crop in the resized image, before it is mirrored."""
        left, right = self.left, min(self.left + self.crop[1], self.size[1])
        if self.flip:
            left, right = self.size[1] - right, self.size[1] - left
        return self.top, left, min(self.crop[0], self.size[0] - self.top), right - left

    def cut_image(self, image: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) -> (at most crop height, at most crop width, 3), not padded yet."""
        return self._cut(resize_image(image, self.size))

    def cut_label(self, label: np.ndarray) -> np.ndarray:
        """Label (H, W) -> the same crop of it, by nearest neighbour."""
        return self._cut(resize_label(label, self.size))

    def mirror(self, cut: np.ndarray) -> np.ndarray:
        """Return what :attr:`window` has, mirrored if the geometry is."""
        # Mirrored after the cut, so that only the crop is copied.
        return cv2.flip(cut, 1) if self.flip else np.ascontiguousarray(cut)

    def pad(self, array: np.ndarray, value: int) -> np.ndarray:
        """Pad a cut array to the crop's size with ``value``."""
        bottom, right = self.crop[0] - array.shape[0], self.crop[1] - array.shape[1]
        if bottom == 0 and right == 0:
            return array
        widths = ((0, bottom), (0, right)) + ((0, 0),) * (array.ndim - 2)
        return np.pad(array, widths, constant_values=value)

    def inside(self) -> np.ndarray:
        """Return bool (h, w) of the crop's size, False on padding."""
        inside = np.zeros(self.crop, dtype=bool)
        inside[: self.size[0], : self.size[1]] = True
        return inside

    def _cut(self, array: np.ndarray) -> np.ndarray:
        top, left, height, width = self.window
        return self.mirror(array[top : top + height, left : left + width])


def sample_short_edge(settings: GeometrySettings, rng: np.random.Generator) -> int:
    """Sample the length of the shortest edge, in pixels; 0 keeps the size."""
    if settings.sampling == "range":
        return int(rng.integers(min(settings.short_edges), max(settings.short_edges) + 1))
    return int(rng.choice(settings.short_edges))


def sample_geometry(
    size: tuple[int, int], short_edge: int, settings: GeometrySettings, rng: np.random.Generator
) -> Geometry:
    """Sample flip and crop for an image of ``size`` (h, w) that is resized to ``short_edge``."""
    height, width = scaled_size(size, short_edge, settings.long_edge)
    top = int(rng.integers(0, max(height - settings.crop[0], 0) + 1))
    left = int(rng.integers(0, max(width - settings.crop[1], 0) + 1))
    flip = settings.flip and bool(rng.random() < 0.5)
    return Geometry((height, width), flip, top, left, settings.crop)


def scaled_size(size: tuple[int, int], short_edge: int, long_edge: int) -> tuple[int, int]:
    """Return (h, w) with the given shortest edge, or smaller where the longest would exceed ``long_edge``.

    As Detectron2's ``ResizeShortestEdge``: a ``short_edge`` of 0 keeps the size, for every ``long_edge``.
    """
    if short_edge == 0:
        return size
    scale = min(short_edge / min(size), long_edge / max(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) to ``size`` (h, w): bilinear, by area where it shrinks to less than half (no aliasing)."""
    if image.shape[:2] == tuple(size):
        return image
    by_area = 2 * size[0] < image.shape[0] and 2 * size[1] < image.shape[1]
    return resize_bands(image, size, cv2.INTER_AREA if by_area else cv2.INTER_LINEAR)


def resize_bands(image: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    """Resize (H, W) or (H, W, C), of any number of bands, to ``size`` (h, w) by one of OpenCV's methods."""
    if image.ndim == 3 and image.shape[2] > _RESIZED_CHANNELS:
        parts = [image[..., first : first + 3] for first in range(0, image.shape[2], 3)]
        resized = [cv2.resize(part, (size[1], size[0]), interpolation=method) for part in parts]
        return np.concatenate([np.atleast_3d(part) for part in resized], axis=2)
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) to ``size`` (h, w) by nearest neighbour, no new values."""
    if label.shape == tuple(size):
        return label
    # Plain INTER_NEAREST samples at pixel corners, which shifts labels against their image.
    return cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def strong_view(
    image: np.ndarray, jitter: tuple[float, float, float, float], grayscale: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the strong view, by UniMatch's recipe: jitter (p 0.8), grey, Gaussian blur (p 0.5; sigma 0.1 to 2 px).

    ``jitter`` is that of :func:`color_jitter` (UniMatch: 0.5, 0.5, 0.5, 0.25), ``grayscale`` the probability of a grey
    image (UniMatch: 0.2).
    """
    if rng.random() < 0.8:
        image = color_jitter(image, jitter, rng)
    if rng.random() < grayscale:
        image = _grey(image)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.1, 2.0))
    return image


def color_jitter(
    image: np.ndarray, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Scale brightness, contrast, saturation by up to 1 +- strength and turn the hue, in random order.

    ``strengths`` are those of the three factors, and the largest turn of the hue in full circles.
    """
    brightness, contrast, saturation = (rng.uniform(1 - strength, 1 + strength) for strength in strengths[:3])
    turn = rng.uniform(-strengths[3], strengths[3])
    for step in rng.permutation(4):
        if step == 0:
            image = adjust_linear(image, brightness, 0.0)
        elif step == 1:
            mean = cv2.mean(cv2.cvtColor(_colors(image), cv2.COLOR_BGR2GRAY))[0]
            image = adjust_linear(image, contrast, (1 - contrast) * mean)
        elif step == 2:
            image = cv2.addWeighted(image, saturation, _grey(image), 1 - saturation, 0)
        else:
            image = adjust_hsv(image, 1.0, turn)
    return image


def ssd_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply SSD's photometric distortion (Liu et al., ECCV 2016, section 2.2), as MaskFormer does on labelled images.

    Each with probability 0.5: brightness by +-32 levels, contrast and saturation by 0.5 to 1.5, hue by +-18 degrees of
    OpenCV's 180; contrast comes before or after the two colour steps, with equal probability.
    """
    brightness, contrast, saturation, hue, contrast_first = rng.random(5) < 0.5
    if brightness:
        image = adjust_linear(image, 1.0, rng.uniform(-32, 32))
    factor = rng.uniform(0.5, 1.5) if contrast else 1.0
    if contrast_first:
        image = adjust_linear(image, factor, 0.0)
    if saturation or hue:
        scale = rng.uniform(0.5, 1.5) if saturation else 1.0
        image = adjust_hsv(image, scale, rng.integers(-18, 19) / 180 if hue else 0.0)
    if not contrast_first:
        image = adjust_linear(image, factor, 0.0)
    return image


def _grey(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(_colors(image), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return _with_colors(image, grey)


def _colors(image: np.ndarray) -> np.ndarray:
    """The first three bands."""
    return image if image.shape[2] == 3 else np.ascontiguousarray(image[..., :3])


def _with_colors(image: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The image with other first three bands."""
    return colors if image.shape[2] == 3 else np.concatenate([colors, image[..., 3:]], axis=2)


def adjust_linear(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Return ``factor * image + offset``, rounded and clipped to 0..255."""
    if factor == 1.0 and offset == 0.0:
        return image
    table = np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def adjust_hsv(image: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    """Scale the saturation of a BGR image and turn its hue by ``turn`` full circles."""
    hsv = cv2.cvtColor(_colors(image), cv2.COLOR_BGR2HSV_FULL)
    # One table a channel: hue wraps around, saturation is clipped, value stays.
    levels = np.arange(256)
    hues = (levels + round(turn * 256)) % 256
    saturations = np.clip(np.rint(levels * saturation), 0, 255)
    table = np.stack([hues, saturations, levels], axis=1).astype(np.uint8)[None]
    return _with_colors(image, cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR_FULL))

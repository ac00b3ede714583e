"""A drawn scene: textured shapes on a cluttered background, and the label of each pixel.

The class of an object is its shape: size, rotation, position and texture are independent of it. Two cues make the set
learnable from scratch in a few hundred iterations: the background is paler than objects and distractors, and each
class prefers one hue, which some of its objects do not have and distractors may have. Points are (x, y) in pixels,
where pixel i covers [i, i + 1); "unit" lengths are fractions of the shorter side of the image. Every change of a pixel
needs a new ``GENERATOR_VERSION``.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

VOID = 255
# Probability that an object has the hue that its class prefers. It sets how hard the set is.
_HUE_PREFERENCE = 0.95
_SUPERSAMPLING = 4
_TAU = 2 * np.pi


@dataclass(frozen=True)
class Scene:
    """A drawn image with its labels."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) uint8, class index; 255 on the 1-pixel border around every object
    layers: tuple[tuple[int, np.ndarray], ...]  # (class or 0, mask (H, W) bool) of all that was painted, in order
    jpeg_quality: int  # the quality to write the image with


# Shapes: contours in a circle of about radius 1 around the origin, filled by the even-odd rule


def polar(angles: np.ndarray, radii: np.ndarray | float = 1.0) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


def equal_angles(count: int) -> np.ndarray:
    return np.arange(count) * (_TAU / count)


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    tips = int(rng.integers(5, 7))
    return [1.1 * polar(equal_angles(2 * tips), np.tile([1.0, rng.uniform(0.38, 0.52)], tips))]


def _cross(rng: np.random.Generator) -> list[np.ndarray]:
    arm = rng.uniform(0.25, 0.38)
    quarter, turn = np.array([[1, -arm], [1, arm], [arm, arm]]), np.array([[0, 1], [-1, 0]])
    return [1.05 * np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])]


def _crescent(rng: np.random.Generator) -> list[np.ndarray]:
    """The unit disc without a disc of ``radius`` around (``offset``, 0)."""
    radius, offset = rng.uniform(0.8, 0.95), rng.uniform(0.45, 0.6)
    outer = np.arccos((1 + offset**2 - radius**2) / (2 * offset))
    inner = np.arccos((np.cos(outer) - offset) / radius)
    outside = polar(np.linspace(outer, _TAU - outer, 32))
    inside = polar(np.linspace(_TAU - inner, inner, 32), radius) + [offset, 0.0]
    return [1.15 * (np.concatenate([outside, inside]) + [0.2, 0.0])]


def _rectangle(rng: np.random.Generator) -> list[np.ndarray]:
    half = np.array([1.0, rng.uniform(0.6, 1.0)]) * 0.85
    return [half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])]


# Class index = place in this table + 1; 0 is the background.
SHAPES: dict[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "disc": lambda rng: [polar(equal_angles(48))],
    "ring": lambda rng: [polar(equal_angles(48)), polar(equal_angles(48), rng.uniform(0.45, 0.65))],
    "rectangle": _rectangle,
    "triangle": lambda rng: [1.1 * polar(equal_angles(3) + rng.uniform(-0.25, 0.25, 3))],
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
}

# Letters unlike every class (so no C, D, O, T, X), as strokes in [-1, 1] x [-1, 1].
_LETTERS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((-0.6, 1), (0, -1), (0.6, 1)), ((-0.3, 0.3), (0.3, 0.3))),  # A
    (((0.6, -1), (-0.6, -1), (-0.6, 1), (0.6, 1)), ((-0.6, 0), (0.4, 0))),  # E
    (((-0.6, -1), (-0.6, 1)), ((0.6, -1), (0.6, 1)), ((-0.6, 0), (0.6, 0))),  # H
    (((-0.6, -1), (-0.6, 1)), ((0.6, -1), (-0.6, 0), (0.6, 1))),  # K
    (((-0.7, 1), (-0.7, -1), (0, 0.4), (0.7, -1), (0.7, 1)),),  # M
    (((-0.6, 1), (-0.6, -1), (0.6, 1), (0.6, -1)),),  # N
    (((0.6, -0.8), (0, -1), (-0.6, -0.5), (0.6, 0.5), (0, 1), (-0.6, 0.8)),),  # S
    (((-0.6, -1), (0.6, -1), (-0.6, 1), (0.6, 1)),),  # Z
)


def _coverage(size: tuple[int, int], paint: Callable[[np.ndarray], None]) -> np.ndarray:
    """Return (H, W) float32 in [0, 1]: the fraction of each pixel that ``paint`` covers, supersampled by four."""
    height, width = size
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    paint(canvas)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _fine(points: np.ndarray) -> np.ndarray:
    return np.rint(points * _SUPERSAMPLING - 0.5).astype(np.int32)


def fill_contours(size: tuple[int, int], contours: Sequence[np.ndarray]) -> np.ndarray:
    return _coverage(size, lambda canvas: cv2.fillPoly(canvas, [_fine(contour) for contour in contours], 255))


def _strokes(size: tuple[int, int], lines: Sequence[np.ndarray], thickness: float) -> np.ndarray:
    fine = max(1, round(thickness * _SUPERSAMPLING))
    return _coverage(size, lambda canvas: cv2.polylines(canvas, [_fine(line) for line in lines], False, 255, fine))


def _place(
    rng: np.random.Generator, points: Sequence[np.ndarray], center: np.ndarray, radius: float
) -> list[np.ndarray]:
    """Stretch by up to a fifth along some axis, rotate, scale and move."""
    axis, angle = rng.uniform(0, _TAU, 2)
    stretch = _rotation(axis) @ np.diag([1.0, rng.uniform(0.8, 1.0)]) @ _rotation(-axis)
    matrix = radius * _rotation(angle) @ stretch
    return [np.asarray(contour) @ matrix.T + center for contour in points]


def _rotation(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """(H, W) float32 in [0, 1], with bumps of about ``cell`` pixels."""
    height, width = size
    grid = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), dtype=np.float32)
    return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def hsv_color(hue: float, saturation: float, value: float) -> np.ndarray:
    """(r, g, b) in [0, 255] of HSV in [0, 1]."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


class Painter:
    """A canvas of ``size`` (height, width) with textures and shapes to paint on it; all randomness is from ``rng``."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.size = size
        self.unit = float(min(size))
        rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
        self.grid = np.stack([columns, rows])
        self.canvas = np.zeros((*size, 3), np.float32)

    def _waves(self) -> tuple[np.ndarray, np.ndarray]:
        period = self.unit * self.rng.uniform(0.04, 0.14)
        angle, *phases = self.rng.uniform(0, _TAU, 3)
        columns, rows = self.grid
        turned, (along, across) = (_rotation(angle) * (_TAU / period)).astype(np.float32), np.float32(phases)
        return (
            np.sin(turned[0, 0] * columns + turned[0, 1] * rows + along),
            np.sin(turned[1, 0] * columns + turned[1, 1] * rows + across),
        )

    def ramp(self) -> np.ndarray:
        """(H, W), rises linearly from 0 to 1 in some direction."""
        direction = _rotation(self.rng.uniform(0, _TAU))[0].astype(np.float32)
        ramp = np.tensordot(direction, self.grid, axes=1)
        ramp -= ramp.min()
        return ramp / ramp.max()

    def _pattern(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: stripes, checker, dots, noise, a gradient, or next to nothing."""
        kind = self.rng.integers(6)
        if kind < 3:
            sharpness = self.rng.uniform(0.5, 3)
            along, across = self._waves()
            wave = (along, along * across * 2, along * across * 2 - 0.8)[kind]
            return np.clip(0.5 + sharpness * wave, 0, 1)
        if kind == 3:
            coarse = smooth_noise(self.rng, self.size, self.unit * self.rng.uniform(0.05, 0.25))
            return 0.7 * coarse + 0.3 * smooth_noise(self.rng, self.size, self.unit * 0.03)
        if kind == 4:
            return self.ramp()
        return smooth_noise(self.rng, self.size, self.unit * 0.04) * 0.3

    def _mixed(self, first: np.ndarray, contrast: float) -> np.ndarray:
        """(H, W, 3) float32: a pattern mixes the colour with one that lies ``contrast`` away from it."""
        direction = self.rng.normal(size=3)
        second = np.clip(first + direction / np.linalg.norm(direction) * contrast, 0, 255)
        change = (second - first).astype(np.float32)
        return first.astype(np.float32) + self._pattern()[..., None] * change

    def pale_texture(self) -> np.ndarray:
        """(H, W, 3) float32 in [0, 255], for the background."""
        color = hsv_color(self.rng.random(), self.rng.uniform(0.05, 0.4), self.rng.uniform(0.3, 0.95))
        return self._mixed(color, self.rng.uniform(20, 80))

    def vivid_texture(self, class_index: int) -> np.ndarray:
        """(H, W, 3) float32 in [0, 255], for an object of a class or (0) a distractor."""
        hue = self.rng.random()
        if class_index and self.rng.random() < _HUE_PREFERENCE:
            hue = (class_index - 1) / len(SHAPES) + self.rng.normal(0, 0.03)
        color = hsv_color(hue % 1.0, self.rng.uniform(0.5, 1.0), self.rng.uniform(0.5, 1.0))
        return self._mixed(color, self.rng.uniform(20, 110))

    def visible_texture(self, class_index: int, coverage: np.ndarray) -> np.ndarray:
        """Return a texture whose mean differs from the pixels it will cover; after five tries any texture."""
        weight = coverage / max(float(coverage.sum()), 1e-6)
        behind = np.tensordot(weight, self.canvas, axes=2)
        for _ in range(5):
            texture = self.vivid_texture(class_index)
            if np.linalg.norm(np.tensordot(weight, texture, axes=2) - behind) > 40:
                break
        return texture

    def paint(self, texture: np.ndarray, coverage: np.ndarray) -> None:
        """Blend ``texture`` over the canvas, in place."""
        self.canvas += (texture - self.canvas) * coverage[..., None]

    def background(self) -> None:
        """Paint one texture, and one to three patches of others: half-planes and islands of smooth noise."""
        self.canvas = self.pale_texture()
        for _ in range(self.rng.integers(1, 4)):
            if self.rng.random() < 0.4:
                field, level = self.ramp(), self.rng.uniform(0.3, 0.7)
            else:
                field = smooth_noise(self.rng, self.size, self.unit * self.rng.uniform(0.12, 0.4))
                level = self.rng.uniform(0.5, 0.75)
            self.paint(self.pale_texture(), np.clip((field - level) * self.rng.uniform(15, 60) + 0.5, 0, 1))

    def point(self, margin: float) -> np.ndarray:
        """(x, y), at least ``margin`` units away from the border of the image."""
        height, width = self.size
        inset = margin * self.unit
        return np.array([self.rng.uniform(inset, width - inset), self.rng.uniform(inset, height - inset)])

    def shape(self, name: str) -> np.ndarray:
        """Return the coverage (H, W) of a class's shape at a random place."""
        radius = self.rng.uniform(0.2, 0.36)
        contours = SHAPES[name](self.rng)
        return fill_contours(self.size, _place(self.rng, contours, self.point(0.7 * radius), radius * self.unit))

    def distractor(self) -> np.ndarray:
        """Return the coverage (H, W) of an object without a class: a bent line, a letter or an irregular blob."""
        kind = self.rng.integers(3)
        if kind == 0:
            line = np.stack([self.point(-0.1) for _ in range(self.rng.integers(2, 4))])
            return _strokes(self.size, [line], self.unit * self.rng.uniform(0.025, 0.06))
        if kind == 1:
            radius = self.unit * self.rng.uniform(0.07, 0.16)
            letter = [np.array(stroke) for stroke in _LETTERS[self.rng.integers(len(_LETTERS))]]
            return _strokes(self.size, _place(self.rng, letter, self.point(0.05), radius), radius * 0.35)
        angles = equal_angles(40)
        phases = self.rng.uniform(0, _TAU, 3)
        bumps = sum(0.25 * np.sin(count * angles + phase) for count, phase in zip((2, 3, 5), phases, strict=True))
        blob = _place(self.rng, [polar(angles, 1 + bumps)], self.point(0), self.unit * self.rng.uniform(0.04, 0.14))
        return fill_contours(self.size, blob)

    def splotch(self) -> None:
        """Paint a half-transparent, blurred ellipse; it changes no label."""
        radius = self.unit * self.rng.uniform(0.1, 0.3)
        coverage = fill_contours(self.size, _place(self.rng, [polar(equal_angles(24))], self.point(0), radius))
        soft = cv2.GaussianBlur(coverage, (0, 0), self.unit * self.rng.uniform(0.01, 0.04))
        self.paint(self.rng.uniform(0, 255, 3).astype(np.float32), soft * np.float32(self.rng.uniform(0.2, 0.5)))

    def photograph(self) -> np.ndarray:
        """(H, W, 3) uint8: the canvas after uneven light, blur and sensor noise."""
        light = self.rng.uniform(0.6, 0.9) + self.ramp() * self.rng.uniform(0.1, 0.5)
        image = self.canvas * light.astype(np.float32)[..., None]
        if self.rng.random() < 0.6:
            image = cv2.GaussianBlur(image, (0, 0), self.rng.uniform(0.3, 1.0) * self.unit / 96)
        image += self.rng.standard_normal(image.shape, dtype=np.float32) * np.float32(self.rng.uniform(2, 10))
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw one to four objects among distractors, back to front; ``size`` is (height, width).

    An object or distractor is moved until it leaves at least half of each earlier object visible (twelve tries, then
    it is left out), so that every labelled object can be recognised.
    """
    painter = Painter(rng, size)
    painter.background()
    instances = np.zeros(size, np.uint8)
    areas: list[int] = []
    classes: list[int] = [0]
    layers: list[tuple[int, np.ndarray]] = []

    def hides_too_much(mask: np.ndarray) -> bool:
        remaining = np.bincount(instances[~mask], minlength=len(classes))[1:]
        return any(2 * left < area for left, area in zip(remaining, areas, strict=True))

    def add(class_index: int, draw: Callable[[], np.ndarray]) -> None:
        for _ in range(12):
            coverage = draw()
            mask = coverage > 0.5
            if not hides_too_much(mask):
                break
        else:
            return
        painter.paint(painter.visible_texture(class_index, coverage), coverage)
        instances[mask] = len(classes) if class_index else 0
        layers.append((class_index, mask))
        if class_index:
            classes.append(class_index)
            areas.append(int(mask.sum()))

    for _ in range(rng.integers(1, 4)):
        add(0, painter.distractor)
    names = list(SHAPES)
    for _ in range(rng.integers(1, 5)):
        index = int(rng.integers(len(names)))
        add(index + 1, lambda name=names[index]: painter.shape(name))
        if rng.random() < 0.2:
            add(0, painter.distractor)
    for _ in range(rng.integers(0, 3)):
        painter.splotch()

    label = np.array(classes, np.uint8)[instances]
    # The later instance is in front: the border runs around its visible part, on what is behind it.
    label[cv2.dilate(instances, np.ones((3, 3), np.uint8)) > instances] = VOID
    return Scene(painter.photograph(), label, tuple(layers), int(rng.integers(50, 96)))

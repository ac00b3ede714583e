"""A drawn landscape, the scene of ``make demo``: six classes that fill the image, in the colours of many seasons.

Place, outline and texture tell the class and are learned fast; the colour changes from image to image, and colours of
different classes overlap: a lake may be as blue as a sky, a tree as red as a house. A few labelled images show few of
these colours, the unlabelled ones show all of them. Points are (x, y) in pixels; "unit" lengths are fractions of the
shorter side. Every change of a pixel needs a new ``GENERATOR_VERSION``.
"""

from __future__ import annotations

import cv2
import numpy as np

from .scene import VOID, Painter, Scene, equal_angles, fill_contours, hsv_color, polar, smooth_noise

# Colours of each class as (hue, saturation, value) in [0, 1]; all vary by some hundredths.
SEASONS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "sky": ((0.58, 0.5, 0.9), (0.92, 0.35, 0.9), (0.08, 0.6, 0.95), (0.6, 0.08, 0.8), (0.72, 0.5, 0.6)),
    "mountain": ((0.6, 0.3, 0.45), (0.06, 0.45, 0.4), (0.78, 0.3, 0.5), (0.38, 0.3, 0.35), (0.0, 0.5, 0.5)),
    "meadow": ((0.28, 0.65, 0.65), (0.15, 0.65, 0.8), (0.09, 0.55, 0.5), (0.42, 0.45, 0.6), (0.5, 0.05, 0.95)),
    "lake": ((0.6, 0.7, 0.7), (0.5, 0.6, 0.65), (0.62, 0.2, 0.5), (0.4, 0.6, 0.4), (0.07, 0.5, 0.7)),
    "tree": ((0.33, 0.7, 0.35), (0.07, 0.8, 0.75), (0.99, 0.75, 0.6), (0.14, 0.75, 0.8), (0.87, 0.4, 0.8)),
    "house": ((0.01, 0.75, 0.75), (0.1, 0.1, 0.95), (0.13, 0.6, 0.85), (0.57, 0.5, 0.6), (0.07, 0.6, 0.35)),
}


class LandscapePainter(Painter):
    """A canvas with the textures and outlines of a landscape."""

    def texture(self, name: str) -> np.ndarray:
        """Return (H, W, 3) float32 in [0, 255]: the pattern of a class, in a colour of some season and a darker one."""
        hue, saturation, value = SEASONS[name][self.rng.integers(len(SEASONS[name]))]
        saturation, value = np.clip([saturation, value] + self.rng.normal(0, 0.1, 2), [0, 0.1], 1)
        first = hsv_color((hue + self.rng.normal(0, 0.03)) % 1, saturation, value)
        contrast = self.rng.uniform(20, 60) if name == "sky" else self.rng.uniform(50, 110)
        second = first * (1 - contrast / 200) if first.max() > 110 else np.minimum(first + contrast, 255)
        return (first + self.class_pattern(name)[..., None] * (second - first)).astype(np.float32)

    def class_pattern(self, name: str) -> np.ndarray:
        """(H, W) float32 in [0, 1]: a gradient, rock, grass, waves, leaves, or planks."""
        phases, (columns, rows) = self.rng.uniform(0, 2 * np.pi, 2), self.grid
        scale = 2 * np.pi / (self.unit * self.rng.uniform(0.06, 0.1))
        across, down = np.sin(columns * scale + phases[0]), np.sin(rows * scale + phases[1])
        match name:
            case "sky":
                return self.ramp()
            case "mountain" | "meadow":
                return smooth_noise(self.rng, self.size, self.unit * (0.12 if name == "mountain" else 0.035))
            case "lake":
                return np.clip(0.5 + down, 0, 1)
            case "tree":
                return np.clip(0.1 + 4 * across * down, 0, 1)
            case _:
                return np.clip(0.5 + 1.5 * across, 0, 1)

    def below(self, top: float, bottom: float, step: float) -> np.ndarray:
        """Return the coverage (H, W) below a line with a corner every ``step`` units.

        Corners lie between ``top`` and ``bottom``, fractions of the height from above.
        """
        height, width = self.size
        corners = self.rng.uniform(top, bottom, max(2, round(width / (step * self.unit))) + 1) * height
        line = np.interp(np.arange(width) + 0.5, np.linspace(0, width, len(corners)), corners)
        return np.clip(self.grid[1] + 1 - line, 0, 1).astype(np.float32)

    def lake(self, horizon: float) -> np.ndarray:
        """Return the coverage (H, W) of a flat ellipse below the horizon."""
        height, width = self.size
        center = np.array([self.rng.uniform(0.1, 0.9) * width, self.rng.uniform(horizon + 0.2, 1) * height])
        radius = self.rng.uniform(0.3, 0.5) * self.unit
        return fill_contours(self.size, [polar(equal_angles(40)) * [1.3 * radius, 0.5 * radius] + center])

    def tree(self, foot: np.ndarray, height: float) -> np.ndarray:
        """Return the coverage (H, W) of a round or a pointed crown on a trunk."""
        width, trunk = self.rng.uniform(0.35, 0.5) * height, 0.07 * height + 0.7
        crown = np.array([[-width, -0.15 * height], [0, -height], [width, -0.15 * height]])
        if self.rng.random() < 0.5:
            crown = polar(equal_angles(24)) * [0.9 * width, 0.42 * height] - [0, 0.6 * height]
        return np.maximum(*(fill_contours(self.size, [part + foot]) for part in (crown, _box(trunk, 0.3 * height))))

    def house(self, foot: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the coverages (H, W) of wall and roof; ``width`` is half of the wall's."""
        height = self.rng.uniform(0.7, 1.1) * width
        roof = np.array([[-1.15, 0], [0, -self.rng.uniform(0.6, 1)], [1.15, 0]]) * width - [0, height]
        return fill_contours(self.size, [_box(width, height) + foot]), fill_contours(self.size, [roof + foot])


def _box(half_width: float, height: float) -> np.ndarray:
    return np.array([[-half_width, -height], [half_width, -height], [half_width, 0], [-half_width, 0]])


def draw_landscape(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw sky, mountains and a meadow, mostly a lake and a house, and one or two trees; ``size`` is (height, width).

    The label is 255 along the borders of classes, on the side of what is behind.
    """
    painter, names = LandscapePainter(rng, size), list(SEASONS)
    height, width = size
    painter.canvas = painter.texture("sky")
    label, order = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    layers: list[tuple[int, np.ndarray]] = []

    def add(name: str, *coverages: np.ndarray) -> None:
        for coverage in coverages:
            painter.paint(painter.texture(name), coverage)
            mask = coverage > 0.5
            layers.append((names.index(name), mask))
            label[mask], order[mask] = names.index(name), len(layers)

    horizon = rng.uniform(0.4, 0.55)
    if rng.random() < 0.9:
        add("mountain", painter.below(horizon - 0.28, horizon - 0.05, rng.uniform(0.15, 0.35)))
    add("meadow", painter.below(horizon - 0.02, horizon + 0.04, 0.4))
    if rng.random() < 0.8:
        add("lake", painter.lake(horizon))
    objects = rng.permutation(["house"] * int(rng.random() < 0.8) + ["tree"] * int(rng.integers(1, 3)))
    for name, depth in zip(objects, np.sort(rng.uniform(0.1, 0.9, len(objects))), strict=True):
        # ``depth`` is 0 at the horizon and 1 at the lower edge, where things are larger.
        foot = np.array([rng.uniform(0.1, 0.9) * width, (horizon + depth * (1 - horizon)) * height])
        if name == "tree":
            add(name, painter.tree(foot, rng.uniform(0.45, 0.6) * height * (0.7 + 0.5 * depth)))
        else:
            add(name, *painter.house(foot, rng.uniform(0.2, 0.3) * painter.unit * (0.7 + 0.5 * depth)))

    window = np.ones((3, 3), np.uint8)
    differs = (cv2.dilate(label, window) != label) | (cv2.erode(label, window) != label)
    label[differs & (cv2.dilate(order, window) > order)] = VOID
    return Scene(painter.photograph(), label, tuple(layers), int(rng.integers(60, 96)))

"""Overlays of semantic segmentations: class colours on the image and class names in their regions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .catalog import Metadata


@dataclass
class VisImage:
    """The result of a :class:`Visualizer`."""

    image: np.ndarray

    def get_image(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8, RGB."""
        return self.image


class Visualizer:
    """Draws on an image, (H, W, 3), RGB, 0 to 255, with the metadata ``stuff_classes`` and ``stuff_colors``.

    Labels without a class, such as the ignore value, are not drawn.
    """

    def __init__(self, img_rgb: np.ndarray, metadata: Metadata) -> None:
        self._image = np.clip(np.asarray(img_rgb), 0, 255).astype(np.uint8)
        self._metadata = metadata

    def draw_sem_seg(self, sem_seg: np.ndarray, *, alpha: float = 0.8) -> VisImage:
        """Draw class colours of opacity ``alpha`` and class names for a map (H, W) of class numbers."""
        image = self._image.copy()
        names, colors = self._metadata.stuff_classes, np.asarray(self._metadata.stuff_colors, dtype=np.float32)
        labels = [label for label in np.unique(sem_seg).tolist() if 0 <= label < len(names)]
        for label in labels:
            region = sem_seg == label
            image[region] = np.rint((1 - alpha) * image[region] + alpha * colors[label]).astype(np.uint8)
        for label in labels:
            _, components, stats, _ = cv2.connectedComponentsWithStats((sem_seg == label).astype(np.uint8))
            largest = stats[1:, cv2.CC_STAT_AREA].max()  # component 0 is the background
            for component, (left, top, width, height, area) in enumerate(stats[1:].tolist(), start=1):
                # Only the bounding box is searched: a large image has thousands of small components.
                region = components[top : top + height, left : left + width] == component
                _write(image, names[label], region, (left, top), always=area == largest)
        return VisImage(image)


def _write(image: np.ndarray, text: str, region: np.ndarray, corner: tuple[int, int], always: bool) -> None:
    """Write the text at the widest place of the region, in place; without ``always`` only if the text fits.

    ``region`` is the mask in its bounding box, which has its ``corner`` (x, y) in the image.
    """
    height, width = image.shape[:2]
    size = float(np.clip(np.sqrt(height * width) / 700, 0.35, 1.5))
    thickness = 1 if size < 0.9 else 2
    (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    if not always and region.sum() < 2 * text_width * text_height:
        return
    # Zero padding makes the border of the box count as a border of the region.
    distance = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    ys, xs = np.nonzero(distance >= 0.95 * distance.max()) + np.array([[corner[1]], [corner[0]]])
    # Of the widest places, the one nearest to their centre.
    nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    left = int(np.clip(xs[nearest] - text_width // 2, 1, max(width - text_width - 2, 1)))
    bottom = int(np.clip(ys[nearest] + text_height // 2, text_height + 1, max(height - below - 1, text_height + 1)))
    # White on a dark outline is legible on any colour. The outline is the text, shifted: a greater thickness makes the
    # letters of OpenCV 5 wider.
    edge = [(dx, dy) for dx in (-thickness, 0, thickness) for dy in (-thickness, 0, thickness)]
    for dx, dy, color in [(*offset, (0, 0, 0)) for offset in edge] + [(0, 0, (255, 255, 255))]:
        place = (left + dx, bottom + dy)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)

"""Pictures of semantic segmentations: colours over the image and the class names in their regions."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from torch import Tensor

from .catalog import Metadata


class VisImage:
    """A finished picture."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = image

    def get_image(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8, RGB."""
        return self._image


class Visualizer:
    """Draws on one image.

    Args:
        img_rgb: (H, W, 3), RGB, 0 to 255.
        metadata: ``stuff_classes`` (names, by class number) and ``stuff_colors`` (RGB, 0 to 255). Classes without a
            name are not drawn (so is the ignore value); without ``stuff_colors`` evenly spread hues are used.
    """

    def __init__(self, img_rgb: np.ndarray, metadata: Metadata) -> None:
        self._image = np.clip(np.asarray(img_rgb), 0, 255).astype(np.uint8)
        self._metadata = metadata

    def draw_sem_seg(self, sem_seg: np.ndarray | Tensor, *, alpha: float = 0.8) -> VisImage:
        """Colour the classes and write their names.

        Args:
            sem_seg: (H, W) class numbers; AssertionError if that is not the size of the image.
            alpha: opacity of the colours.
        """
        labels = sem_seg.detach().cpu().numpy() if isinstance(sem_seg, Tensor) else np.asarray(sem_seg)
        assert labels.shape == self._image.shape[:2], f"{labels.shape} labels for an image of {self._image.shape[:2]}"
        picture = self._image.copy()
        names = self._metadata.get("stuff_classes", [])
        drawn = [label for label in np.unique(labels).tolist() if 0 <= label < len(names)]
        for label in drawn:
            region, colour = labels == label, np.asarray(self._colour(label, len(names)), dtype=np.float32)
            picture[region] = np.rint((1 - alpha) * picture[region] + alpha * colour).astype(np.uint8)
        for label in drawn:
            _, components, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
            largest = stats[1:, cv2.CC_STAT_AREA].max()  # component 0 is what does not belong to the class
            for component, (left, top, width, height, area) in enumerate(stats[1:].tolist(), start=1):
                # Its box alone is looked at: a large picture has thousands of small ones.
                region = components[top : top + height, left : left + width] == component
                self._write(picture, names[label], region, (left, top), area, always=area == largest)
        return VisImage(picture)

    def _colour(self, label: int, num_classes: int) -> tuple[int, ...]:
        colours = self._metadata.get("stuff_colors", [])
        if label < len(colours):
            return tuple(colours[label])
        return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(label / num_classes, 0.75, 0.95))

    @staticmethod
    def _write(
        picture: np.ndarray, text: str, region: np.ndarray, corner: tuple[int, int], area: int, always: bool
    ) -> None:
        """Write where the region in the box at ``corner`` (x, y) is widest; ``always``, or if the text fits into it."""
        height, width = picture.shape[:2]
        size = float(np.clip(np.sqrt(height * width) / 700, 0.35, 1.5))
        thickness = 1 if size < 0.9 else 2
        (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
        if not always and area < 2 * text_width * text_height:
            return
        # Padding by zeros lets the border of the box count as a border of the region.
        distance = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        ys, xs = np.nonzero(distance >= 0.95 * distance.max()) + np.array([[corner[1]], [corner[0]]])
        # Of the widest places, the one nearest to the middle of them all.
        nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
        left = int(np.clip(xs[nearest] - text_width // 2, 1, max(width - text_width - 2, 1)))
        bottom = int(np.clip(ys[nearest] + text_height // 2, text_height + 1, max(height - below - 1, text_height + 1)))
        # White on a dark outline reads on any colour. A greater thickness would not do for the outline: it makes the
        # letters of OpenCV 5 wider.
        edge = [(dx, dy) for dx in (-thickness, 0, thickness) for dy in (-thickness, 0, thickness)]
        for dx, dy, colour in [(*offset, (0, 0, 0)) for offset in edge] + [(0, 0, (255, 255, 255))]:
            place = (left + dx, bottom + dy)
            cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)

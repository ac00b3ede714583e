"""What is written about a picture: the classes over it, and on demand labels, confidence and a comparison."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ..data import read_label
from ..data.loading.mappers import check_label
from ..errors import InputError
from ..evaluation import classes_in, draw_legend, draw_panels
from ..host import Visualizer
from .segmenter import Segmentation, Segmenter


class ResultWriter:
    """Writes to a folder; see :mod:`rc2l_d2.commands.predict` for the files."""

    def __init__(self, output: Path, segmenter: Segmenter, labels: bool, confidence: bool, truth: Path | None):
        """
        Args:
            output: the folder.
            segmenter: of what is written.
            labels: whether label images are written.
            confidence: whether maps of the classes' confidence are written.
            truth: a folder of labels to compare with.

        Raises:
            InputError: ``truth`` is no folder.
        """
        if truth is not None and not truth.is_dir():
            raise InputError(f"--compare {truth} is not a folder; name the one with the label images.")
        output.mkdir(parents=True, exist_ok=True)
        self.output = output
        self.metadata = segmenter.metadata
        self.classes = (self.metadata.stuff_classes, np.asarray(self.metadata.stuff_colors, np.uint8))
        self.label_files = segmenter.label_files
        self.labels = labels
        self.confidence = confidence
        self.truth = truth
        self.occurred: set[int] = set()

    def draw(self, name: str, image: np.ndarray, seen: Segmentation) -> np.ndarray:
        """Write what belongs to a picture or frame, but for its overlay, which is returned.

        Args:
            name: of the files; with a folder before it where it is the frame of a video.
            image: uint8 (H, W, 3) in RGB order.
            seen: of this image.

        Returns:
            uint8 (H, W, 3) in RGB order, the image with colours and names of the classes over it.
        """
        occurring = classes_in(seen.labels, len(self.metadata.stuff_classes))
        self.occurred.update(occurring)
        if self.labels:
            picture = Image.fromarray(seen.labels)
            picture.putpalette(self.classes[1].tobytes())
            self._save(picture, f"labels/{name}.png")
        if self.confidence:
            for label in occurring:
                class_name = re.sub(r"\W+", "_", self.metadata.stuff_classes[label])
                self._save(Image.fromarray(seen.confidence(label)), f"confidence/{name}/{label}_{class_name}.png")
        return Visualizer(image, self.metadata).draw_sem_seg(seen.labels, alpha=0.6).get_image()

    def save(self, name: str, overlay: np.ndarray) -> None:
        """Write a picture's overlay."""
        self._save(Image.fromarray(overlay), f"{name}.png")

    def compare(self, file: Path, image: np.ndarray, seen: Segmentation) -> None:
        """Write a picture, its ground truth and what was seen side by side, where ground truth was given.

        Raises:
            InputError: there is no label for the file, or it does not fit.
        """
        if self.truth is None:
            return
        label_file, label_map = self.label_files.find(self.truth, file)
        label = read_label(label_file, label_map)
        names = {"file_name": str(file), "sem_seg_file_name": str(label_file)}
        check_label(label, image.shape[:2], names, len(self.metadata.stuff_classes), self.metadata.ignore_label)
        path = self._place(f"comparison/{file.stem}.png")
        draw_panels([(image, [label, seen.labels])], ["image", "ground truth", "prediction"], *self.classes, str(path))

    def finish(self) -> None:
        """Write the legend of all classes that occurred."""
        if self.occurred:
            draw_legend(self.occurred, *self.classes, str(self._place("legend.svg")))

    def _save(self, picture: Image.Image, name: str) -> None:
        picture.save(self._place(name))

    def _place(self, name: str) -> Path:
        path = self.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

"""Result files of an image: overlay, and on demand labels, confidence maps and a comparison."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data import read_label
from ..data.loading.mappers import check_label
from ..data.loading.raster import RasterFile
from ..errors import InputError
from ..evaluation import classes_in, draw_legend, draw_panels
from .coco_results import CocoResults
from .inputs import LEGEND
from .large import OVERVIEW, LabelFile, segment_by_windows, segment_shrunk
from .segmenter import Segmentation, Segmenter, draw_classes

logger = logging.getLogger(__name__)


@dataclass
class ResultWriter:
    """Writes the files that :mod:`rc2l_d2.commands.predict` describes; InputError without the folder ``truth``."""

    output: Path
    segmenter: Segmenter
    labels: bool
    confidence: bool
    truth: Path | None
    coco: CocoResults | None = None

    def __post_init__(self):
        if self.truth is not None and not self.truth.is_dir():
            raise InputError(f"--compare {self.truth} is not a folder; name the folder of the label images.")
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"--output {self.output} is a file; name a folder.")
        self.legend = self.output / LEGEND
        if self.legend.exists():
            kept = f"those of the same name are replaced, others stay, and {LEGEND} will show the classes of this call."
            logger.warning("%s has results of an earlier call: %s", self.output, kept)
        self.output.mkdir(parents=True, exist_ok=True)
        self.metadata = self.segmenter.metadata
        self.names = self.metadata.stuff_classes
        self.colors = np.asarray(self.metadata.stuff_colors, np.uint8)
        self.occurred: set[int] = set()
        self.compared: dict[Path, Path] = {}  # label file -> image

    def draw(self, name: str, segmentation: Segmentation, georeference: dict[str, Any] | None = None) -> np.ndarray:
        """Write labels and confidence maps of an image or frame, and return its overlay, uint8 (H, W, 3), RGB.

        ``name`` is :attr:`Input.name`, for a frame with its number.
        """
        occurring = self._note_classes(segmentation.labels)
        if self.labels and georeference:
            with LabelFile(self.output / "labels" / name, segmentation.labels.shape, georeference, self.colors) as file:
                file.write(0, 0, segmentation.labels)
        elif self.labels:
            labels = Image.fromarray(segmentation.labels)
            labels.putpalette(self.colors.tobytes())
            labels.save(self._path(f"labels/{name}.png"))
        if self.confidence:
            for earlier in (self.output / "confidence" / name).glob("[0-9]*_*.png"):
                earlier.unlink()  # of a class that may not occur any more
            for label in occurring:
                class_name = re.sub(r"\W+", "_", self.names[label])
                path = self._path(f"confidence/{name}/{label}_{class_name}.png")
                Image.fromarray(segmentation.confidence(label)).save(path)
        return draw_classes(segmentation.image[..., 2::-1], segmentation.labels, self.metadata)

    @property
    def needs_whole(self) -> bool:
        """Whether results are requested that are not written for images that are read in parts."""
        return self.confidence or self.coco is not None or self.truth is not None

    def draw_large(self, name: str, raster: RasterFile) -> np.ndarray:
        """Segment a large image, write its label image, and return an overlay of at most OVERVIEW pixels.

        Raises:
            InputError: the file is damaged, or the command line requests what needs the image as a whole.
        """
        if self.needs_whole:
            raise InputError(
                f"{raster.path}: of an image that is read in parts neither confidence maps nor COCO results nor a "
                "comparison are written; leave --confidence, --coco and --compare out, or cut the image."
            )
        blocks = (segment_by_windows if self.segmenter.by_windows else segment_shrunk)(raster, self.segmenter)
        scale = min(1.0, math.sqrt(OVERVIEW / math.prod(raster.size)))
        size = (max(1, int(scale * raster.size[0])), max(1, int(scale * raster.size[1])))
        stem = (self.output / "labels" if self.labels else self.output) / name
        bar = tqdm(total=math.prod(raster.size), desc=name, unit="px", unit_scale=True, leave=False, disable=None)
        with bar, LabelFile(stem, raster.size, raster.georeference, self.colors, is_kept=self.labels) as file:
            for top, left, labels in blocks:
                bar.update(labels.size)
                self._note_classes(labels)
                file.write(top, left, labels)
            small = file.read_reduced(size)
        return draw_classes(raster.read_reduced(size)[..., 2::-1], small, self.metadata)

    def compare(self, file: Path, name: str, segmentation: Segmentation) -> None:
        """Write image, ground truth and prediction side by side; InputError if no label fits the file."""
        if self.truth is None:
            return
        label_file, label_map = self.segmenter.label_files.find(self.truth, file)
        first = self.compared.setdefault(label_file, file)
        if first.parent != file.parent:
            raise InputError(f"{label_file} would be the label of {first} too; compare one folder of images at a time.")
        label = read_label(label_file, label_map)
        files = {"file_name": str(file), "sem_seg_file_name": str(label_file)}
        image = np.ascontiguousarray(segmentation.image[..., 2::-1])
        check_label(label, image.shape[:2], files, len(self.names), self.metadata.ignore_label)
        path = self._path(f"comparison/{name}.png")
        rows, titles = [(image, [label, segmentation.labels])], ["image", "ground truth", "prediction"]
        draw_panels(rows, titles, self.names, self.colors, str(path))

    def finish(self) -> None:
        """Write the legend of all predicted classes, and the files of ``coco`` if it has an image."""
        if self.coco is not None and self.coco.images:
            self.coco.write()
        if self.occurred:
            draw_legend(self.occurred, self.names, self.colors, str(self.legend))

    def _note_classes(self, labels: np.ndarray) -> list[int]:
        """Return the classes in ``labels``, and note them for the legend, which is there before the first result."""
        occurring = classes_in(labels, len(self.names))
        if not self.occurred:
            draw_legend(occurring, self.names, self.colors, str(self.legend))
        self.occurred.update(occurring)
        return occurring

    def _path(self, name: str) -> Path:
        path = self.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

"""Predictions as COCO's run lengths: for evaluation tools, and as first labels for labelling tools."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from ..engine.whole_files import write_text
from ..errors import InputError

_DESCRIPTION = "predictions of rc2l-predict"
_START = 200  # bytes of a data set's file that hold it


def check_coco_file(file: Path) -> None:
    """Create the folder of a file of results.

    Raises:
        InputError: it cannot be created, ``file`` is no name of a JSON file, or there is one that is no earlier result.
    """
    if file.suffix.lower() != ".json":
        raise InputError(f"--coco is {file}; name a file that ends with .json.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset = _dataset_file(file)
        is_ours = file.is_file() and dataset.is_file() and _DESCRIPTION.encode() in dataset.read_bytes()[:_START]
    except OSError as error:
        raise InputError(f"--coco {file} cannot be written ({error.strerror}); name another.") from error
    for one in (file, dataset):
        if one.exists() and not is_ours:
            raise InputError(
                f"--coco would replace {one}, which is no earlier result; name another file, or remove it."
            )


def _dataset_file(file: Path) -> Path:
    """The path of the COCO data set beside a file of results."""
    return file.with_name(f"{file.stem}_dataset.json")


@dataclass
class CocoResults:
    """Collects the predicted classes of images and writes two JSON files.

    ``file`` has the layout of Detectron2's ``sem_seg_predictions.json``: a list of {"file_name", "category_id",
    "segmentation": {"size": [h, w], "counts": text}}, one for each class in an image, with "image_id" besides. The
    second, ``<name>_dataset.json``, is a COCO data set of the same masks with images and categories, as labelling tools
    read it; pycocotools loads it, and ``file`` as its results. Call :func:`check_coco_file` first.
    """

    file: Path
    classes: Sequence[str]
    entries: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)

    def add(self, file: Path, labels: np.ndarray) -> None:
        """Add the classes predicted for an image file, uint8 (H, W)."""
        height, width = labels.shape
        image = {"id": len(self.images) + 1, "file_name": os.fspath(file), "height": height, "width": width}
        self.images.append(image)
        for label in np.unique(labels).tolist():
            code = coco_mask.encode(np.asfortranarray(labels == label, np.uint8))
            segmentation = {"size": [height, width], "counts": code["counts"].decode("ascii")}
            self.entries.append(
                {
                    "file_name": image["file_name"],
                    "image_id": image["id"],
                    "category_id": label,
                    "segmentation": segmentation,
                }
            )

    def write(self) -> None:
        """Write both files, with the images' paths from the folder that holds all of them; InputError if impossible."""
        names = [image["file_name"] for image in self.images]
        common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names]) if names else ""
        below = {name: os.path.relpath(os.path.abspath(name), common) for name in names}
        entries = [{**entry, "file_name": below[entry["file_name"]]} for entry in self.entries]
        annotations = [self._annotation(number, entry) for number, entry in enumerate(entries, start=1)]
        dataset = {
            "info": {"description": _DESCRIPTION},
            "images": [{**image, "file_name": below[image["file_name"]]} for image in self.images],
            "categories": [{"id": index, "name": name} for index, name in enumerate(self.classes)],
            "annotations": annotations,
        }
        for file, content in ((self.file, entries), (_dataset_file(self.file), dataset)):
            write_text(file, json.dumps(content))

    @staticmethod
    def _annotation(number: int, entry: dict) -> dict:
        code = entry["segmentation"]
        measures = {"area": int(coco_mask.area(code)), "bbox": coco_mask.toBbox(code).tolist(), "iscrowd": 0}
        return {"id": number} | {key: entry[key] for key in ("image_id", "category_id", "segmentation")} | measures

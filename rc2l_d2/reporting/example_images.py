"""Example images of the training report: the teacher's predictions and its pseudo regions."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..data import UnlabeledMapper, load_dataset, stream_entries
from ..engine import EMATeacher
from ..errors import InputError
from ..evaluation import class_colors, overlay, predict_images
from ..host import CfgNode, MetadataCatalog
from .charts import data_uri

# Pixels of the longer edge: larger images are shrunk, and those below half of it enlarged by repeating pixels.
_EDGE = 400
_WRONG = (225, 45, 45)
# Label of mask pixels without a pseudo region.
_NONE = 255


class Row(NamedTuple):
    """One example: file name, images as (caption, data URI), and a caption of the whole row."""

    name: str
    images: Sequence[tuple[str, str]]
    note: str


def test_rows(cfg: CfgNode, teacher: EMATeacher, dataset_name: str, count: int) -> list[Row]:
    """Return image, ground truth, the teacher's prediction and its errors, for images spread over a test set.

    Raises:
        InputError: the data set cannot be used, or a file cannot be read.
    """
    colors, ignored = class_colors(dataset_name), MetadataCatalog.get(dataset_name).ignore_label
    size = len(load_dataset(dataset_name, labels="all", key="DATASETS.TEST"))
    rows = []
    for sample in predict_images(cfg, teacher.model, dataset_name, _spread(size, count)):
        prediction, known = sample.prediction, sample.label != ignored
        wrong = known & (prediction != sample.label)
        errors = _faded(sample.image)
        errors[wrong] = _WRONG
        images = {
            "image": sample.image,
            "ground truth": overlay(sample.image, sample.label, colors),
            "teacher": overlay(sample.image, prediction, colors),
            "errors": errors,
        }
        note = f"{100 * wrong.sum() / max(1, known.sum()):.1f} % of the labelled pixels are wrong"
        rows.append(_row(sample.file, images, note))
    return rows


def unlabeled_rows(cfg: CfgNode, teacher: EMATeacher, number: int) -> list[Row]:
    """Return weak views (training crops) with the teacher's pseudo regions before mixing.

    Raises:
        InputError: the data sets cannot be used, or none of the images can be.
    """
    entries, mapper = stream_entries(cfg, "UNLABELED"), UnlabeledMapper(cfg)
    samples, problem = [], InputError("DATASETS.UNLABELED holds no image; give a data set split that has some.")
    for index in _spread(len(entries), number):
        try:
            samples.append(mapper(entries[index], np.random.default_rng(index)))
        except InputError as error:  # Training skips such an image too.
            problem = error
    if not samples:
        raise problem
    assert teacher.labeler is not None, "only architectures that use unlabelled images have such a data set"
    prediction = teacher.labeler.select(teacher.predict(samples))
    pseudo = teacher.labeler.regions(prediction)
    labels = pseudo.masks.argmax(dim=1).masked_fill(~pseudo.valid, _NONE).byte().cpu().numpy()
    fractions = (pseudo.valid.sum(dim=(1, 2)) / prediction.inside.sum(dim=(1, 2)).clamp_min(1)).tolist()
    colors, step = class_colors(cfg.DATASETS.TRAIN[0]), max(1, teacher.model.size_divisibility)
    rows = []
    counts = pseudo.present.sum(dim=1).tolist()
    for sample, grid, fraction, count in zip(samples, labels, fractions, counts, strict=True):
        image = sample["image"][:3].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image)
        # The grid is that of the padded batch.
        stride = -(-image.shape[1] // step) * step // grid.shape[1]
        large = grid.repeat(stride, axis=0).repeat(stride, axis=1)[: image.shape[0], : image.shape[1]]
        regions = np.where((large == _NONE)[..., None], _faded(image), overlay(image, large, colors))
        note = f"{count} pseudo regions on {100 * fraction:.0f} % of the image"
        rows.append(_row(sample["file_name"], {"weak view": image, "pseudo regions": regions}, note))
    return rows


def _spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` of ``size`` indices at equal distances."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(int).tolist()


def _faded(image: np.ndarray) -> np.ndarray:
    """Return ``image`` in pale gray, as a background."""
    gray = np.array(Image.fromarray(image).convert("L").convert("RGB"))
    return overlay(gray, np.zeros(gray.shape[:2], np.uint8), np.array([[225, 225, 225]]))


def _row(file: str, images: dict[str, np.ndarray], note: str) -> Row:
    """Return a row of images (H, W, 3), uint8, RGB, as JPEG files."""
    uris = []
    for caption, image in images.items():
        shown = Image.fromarray(image)
        if (factor := _EDGE // max(shown.size)) > 1:
            shown = ImageOps.scale(shown, factor, Image.Resampling.NEAREST)
        shown.thumbnail((_EDGE, _EDGE))
        # Without chroma subsampling: the colours are the classes.
        shown.save(jpeg := io.BytesIO(), "JPEG", quality=80, subsampling=0)
        uris.append((caption, data_uri("jpeg", jpeg)))
    return Row(os.path.basename(file), uris, note)

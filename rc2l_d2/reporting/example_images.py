"""Example images of the training report: the teacher's predictions and its pseudo regions."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ..data import UnlabeledMapper, load_dataset, stream_entries
from ..engine import EMATeacher
from ..errors import InputError
from ..evaluation import class_colors, overlay, predict_images
from ..host import CfgNode, MetadataCatalog

# Pixels of the longer edge: larger images are shrunk, and those below half of it enlarged by repeating pixels.
_EDGE = 400
_WRONG = (225, 45, 45)
# Label of mask pixels without a pseudo region.
_NONE = 255


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        name: file name.
        images: (caption, data URI).
        note: a caption of the whole row.
    """

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
    for answers in predict_images(cfg, teacher.model, dataset_name, _spread(size, count)):
        prediction, known = answers.prediction, answers.label != ignored
        wrong = known & (prediction != answers.label)
        differing = _faded(answers.image)
        differing[wrong] = _WRONG
        images = [
            ("image", answers.image),
            ("ground truth", overlay(answers.image, answers.label, colors)),
            ("teacher", overlay(answers.image, prediction, colors)),
            ("errors", differing),
        ]
        note = f"{100 * wrong.sum() / max(1, known.sum()):.1f} % of the labelled pixels are wrong"
        rows.append(_row(answers.file, images, note))
    return rows


def unlabeled_rows(cfg: CfgNode, teacher: EMATeacher, count: int) -> list[Row]:
    """Return weak views (training crops) with the teacher's pseudo regions before mixing.

    Raises:
        InputError: the data sets cannot be used, or none of the images can be.
    """
    entries, mapper = stream_entries(cfg, "UNLABELED"), UnlabeledMapper(cfg)
    samples, problem = [], None
    for index in _spread(len(entries), count):
        try:
            samples.append(mapper(entries[index], np.random.default_rng(index)))
        except InputError as error:  # Training skips such an image too.
            problem = error
    if not samples:
        raise problem or InputError("DATASETS.UNLABELED holds no image; give a data set split that has some.")
    assert teacher.labeler is not None, "only architectures that use unlabelled images have such a data set"
    prediction = teacher.labeler.select(teacher.predict(samples))
    pseudo = teacher.labeler.regions(prediction)
    labels = pseudo.masks.argmax(dim=1).masked_fill(~pseudo.valid, _NONE).byte().cpu().numpy()
    shares = (pseudo.valid.sum(dim=(1, 2)) / prediction.inside.sum(dim=(1, 2)).clamp_min(1)).tolist()
    colors = class_colors(cfg.DATASETS.TRAIN[0])
    rows = []
    for sample, grid, share, found in zip(samples, labels, shares, pseudo.present.sum(dim=1).tolist(), strict=True):
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image)
        # The grid is that of the padded batch.
        step = max(1, teacher.model.size_divisibility)
        stride = -(-image.shape[1] // step) * step // grid.shape[1]
        large = grid.repeat(stride, axis=0).repeat(stride, axis=1)[: image.shape[0], : image.shape[1]]
        regions = np.where((large == _NONE)[..., None], _faded(image), overlay(image, large, colors))
        note = f"{found} pseudo regions on {100 * share:.0f} % of the image"
        rows.append(_row(sample["file_name"], [("weak view", image), ("pseudo regions", regions)], note))
    return rows


def _spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` of ``size`` indices at equal distances."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(size, count))})


def _faded(image: np.ndarray) -> np.ndarray:
    """Return ``image`` in pale gray, as a background."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat((0.35 * gray + 0.65 * 225)[..., None], 3, axis=2).astype(np.uint8)


def _row(file: str, images: Sequence[tuple[str, np.ndarray]], note: str) -> Row:
    return Row(os.path.basename(file), [(caption, _data_uri(image)) for caption, image in images], note)


def _data_uri(image: np.ndarray) -> str:
    """Return an image (H, W, 3), uint8, RGB, as the URI of a JPEG."""
    longest = max(image.shape[:2])
    if longest > _EDGE:
        size = [max(1, round(length * _EDGE / longest)) for length in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    elif longest <= _EDGE // 2:
        factor = _EDGE // longest
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    file = io.BytesIO()
    # Without chroma subsampling: the colours are the classes.
    Image.fromarray(image).save(file, "JPEG", quality=80, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Pictures that show what a model does: image, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import TestMapper, load_dataset, read_image, read_label
from ..data.datasets.description import voc_color_map
from ..data.loading.transforms import resize_image, resize_label, scaled_size
from ..host import CfgNode, MetadataCatalog
from ..regions import most_probable
from .inference import Predictor

_DPI = 120
# Of a panel, in inches: its image in its own size, but the longer side between the first two, none below the last.
_SMALLEST, _LARGEST, _THINNEST = 2.6, 10.0, 0.5
_LINE = 0.3  # of text, in inches


@dataclass(frozen=True)
class Answers:
    """What models say about an image, all at the size of its file.

    Attributes:
        file: of the image.
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, the ground truth.
        predictions: by the models' names, (H, W) class indices.
    """

    file: str
    image: np.ndarray
    label: np.ndarray
    predictions: Mapping[str, np.ndarray]


@torch.no_grad()
def ask(cfg: CfgNode, models: Mapping[str, nn.Module], dataset_name: str, indices: Sequence[int]) -> Iterator[Answers]:
    """Ask models about single images, one at a time.

    Args:
        cfg: the models' configuration (how test images are read, and how the models are asked).
        models: name -> model in eval mode.
        dataset_name: a registered data set with labels.
        indices: which of its images.

    Raises:
        InputError: the data set cannot be used, or a file cannot be read.
    """
    records = load_dataset(dataset_name, labels="all", key="DATASETS.TEST")
    mapper = TestMapper(cfg)
    predictors = {name: Predictor(cfg, model) for name, model in models.items()}
    for index in indices:
        sample = mapper(records[index])
        # The file's own size, which is that of labels and predictions; the model may see another.
        image = read_image(sample["file_name"], "RGB")
        label = read_label(sample["sem_seg_file_name"], sample.get("label_map"))
        predictions = {
            name: most_probable(predictor([sample])[0]["sem_seg"], dim=0).cpu().numpy()
            for name, predictor in predictors.items()
        }
        yield Answers(sample["file_name"], image, label, predictions)


def class_colors(dataset_name: str) -> np.ndarray:
    """(K, 3), RGB, 0 to 255: those of the data set, or VOC's where it has none."""
    metadata = MetadataCatalog.get(dataset_name)
    return np.asarray(metadata.get("stuff_colors") or voc_color_map(len(metadata.stuff_classes)))


def draw_comparison(
    cfg: CfgNode, models: Mapping[str, nn.Module], dataset_name: str, indices: Sequence[int], path: str
) -> None:
    """Write a picture with one row an image: the image, the ground truth, and each model's prediction, with a legend.

    Args:
        cfg, models, dataset_name, indices: see :func:`ask`; the models' names are the columns' titles.
        path: PNG to write.
    """
    rows = [
        (answers.image, [answers.label, *(labels.astype(np.uint8) for labels in answers.predictions.values())])
        for answers in ask(cfg, models, dataset_name, indices)
    ]
    names = MetadataCatalog.get(dataset_name).stuff_classes
    draw_panels(rows, ["image", "ground truth", *models], names, class_colors(dataset_name), path)


def draw_panels(
    rows: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]],
    titles: Sequence[str],
    names: Sequence[str],
    colors: np.ndarray,
    path: str,
) -> None:
    """Write a picture with a row for each image: the image and label maps over it; and a legend of all their classes.

    Args:
        rows: image, uint8 (H, W, 3) in RGB order, and its label maps, uint8 (H, W); what is no class is not coloured.
        titles: of the columns, the image's first.
        names: of the K classes.
        colors: theirs, (K, 3), RGB, 0 to 255.
        path: PNG to write. An image has its own size in it, within bounds.
    """
    # Half a second, which runs that draw nothing need not spend.
    from matplotlib.figure import Figure

    occurring = {label for _, maps in rows for labels in maps for label in classes_in(labels, len(colors))}
    sizes = np.array([image.shape[:2] for image, _ in rows]) / _DPI
    sizes *= np.clip(sizes.max(), _SMALLEST, _LARGEST) / sizes.max()
    height, width = sizes.max(axis=0).clip(_THINNEST)
    columns = 2 * len(titles)
    lines = 1 + -(-len(occurring) // columns)
    # A figure of its own, not pyplot's: no display and no global state.
    figure = Figure((width * len(titles), height * len(rows) + _LINE * lines), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, (image, maps) in zip(axes, rows, strict=True):
        size = scaled_size(image.shape[:2], min(image.shape[:2]), round(_LARGEST * _DPI))
        image = resize_image(image, size)
        pictures = [image, *(overlay(image, resize_label(labels, size), colors) for labels in maps)]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    _add_legend(figure, occurring, names, colors, columns, loc="outside lower center")
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def draw_legend(classes: Iterable[int], names: Sequence[str], colors: np.ndarray, path: str) -> None:
    """Write a picture, PNG or SVG, of these classes' colours and names; the arguments as for :func:`draw_panels`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    _add_legend(figure, classes, names, colors, 1, loc="center")
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def classes_in(labels: np.ndarray, count: int) -> list[int]:
    """Which of the class numbers below ``count`` are in a label map of whole numbers, in order."""
    return [label for label in np.unique(labels).tolist() if label < count]


def _add_legend(
    figure: Any, classes: Iterable[int], names: Sequence[str], colors: np.ndarray, columns: int, loc: str
) -> None:
    from matplotlib.patches import Patch

    shown = sorted(classes)
    handles = [Patch(facecolor=np.asarray(colors[label]) / 255, edgecolor="gray") for label in shown]
    # A dollar would begin a formula.
    texts = [names[label].replace("$", r"\$") for label in shown]
    figure.legend(handles, texts, loc=loc, ncols=max(1, min(len(shown), columns)), frameon=False)


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class colours over the image, without names (a legend has them); void pixels stay as they are.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W), class indices; what is none is void.
        colors: (K, 3), 0 to 255, in the image's order of channels.
    """
    is_class = labels < len(colors)
    picture = image.copy()
    picture[is_class] = (0.35 * image[is_class] + 0.65 * colors[labels[is_class]]).astype(np.uint8)
    return picture

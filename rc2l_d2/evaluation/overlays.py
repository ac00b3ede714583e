"""Pictures that show what a model does: image, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data import TestMapper, load_dataset, read_image, read_label
from ..data.definition import voc_color_map
from ..host import CfgNode, MetadataCatalog
from .inference import Predictor


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
            name: predictor([sample])[0]["sem_seg"].argmax(dim=0).cpu().numpy()
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
    # Half a second, which runs that draw nothing need not spend.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = class_colors(dataset_name)
    titles = ["image", "ground truth", *models]
    # A figure of its own, not pyplot's: no display and no global state.
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(indices) + 0.8))
    axes = figure.subplots(len(indices), len(titles), squeeze=False)
    for row, answers in zip(axes, ask(cfg, models, dataset_name, indices), strict=True):
        labellings = [answers.label, *answers.predictions.values()]
        pictures = [answers.image, *(overlay(answers.image, labels, colors) for labels in labellings)]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    handles = [
        Patch(facecolor=color / 255, edgecolor="gray", label=name)
        for color, name in zip(colors, MetadataCatalog.get(dataset_name).stuff_classes, strict=True)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 2 * len(titles)), frameon=False)
    figure.tight_layout(rect=(0, 0.8 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)


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

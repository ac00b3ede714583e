"""Pictures that show what a model does: image, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..data import TestMapper, read_image, read_label
from ..host import CfgNode, DatasetCatalog, MetadataCatalog
from .inference import Predictor


@torch.no_grad()
def draw_comparison(
    cfg: CfgNode, models: dict[str, nn.Module], dataset_name: str, indices: Sequence[int], path: str
) -> None:
    """Write a picture with one row an image: the image, the ground truth, and each model's prediction, with a legend.

    Args:
        cfg: the models' configuration (how test images are read, and how the models are asked).
        models: column title -> model in eval mode.
        dataset_name: a registered data set with labels.
        indices: which of its images.
        path: PNG to write.
    """
    # Half a second, which runs that draw nothing need not spend.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    metadata = MetadataCatalog.get(dataset_name)
    colors = np.asarray(metadata.stuff_colors)
    records = DatasetCatalog.get(dataset_name)
    mapper = TestMapper(cfg)
    predictors = {title: Predictor(cfg, model) for title, model in models.items()}
    titles = ["image", "ground truth", *models]
    # A figure of its own, not pyplot's: no display and no global state.
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(indices) + 0.8))
    axes = figure.subplots(len(indices), len(titles), squeeze=False)
    for row, index in zip(axes, indices, strict=True):
        sample = mapper(records[index])
        # The file's own size, which is that of labels and predictions; the model may see another.
        image = read_image(sample["file_name"])[:, :, ::-1]
        label = read_label(sample["sem_seg_file_name"], sample.get("label_map"))
        pictures = [image, _overlay(image, label, colors)]
        for predictor in predictors.values():
            scores = predictor([sample])[0]["sem_seg"]
            pictures.append(_overlay(image, scores.argmax(dim=0).cpu().numpy(), colors))
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    handles = [
        Patch(facecolor=color / 255, edgecolor="gray", label=name)
        for color, name in zip(colors, metadata.stuff_classes, strict=True)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 2 * len(titles)), frameon=False)
    figure.tight_layout(rect=(0, 0.8 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)


def _overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class colours over the image, without names (the legend has them); void pixels stay as they are."""
    is_class = labels < len(colors)
    picture = image.copy()
    picture[is_class] = (0.35 * image[is_class] + 0.65 * colors[labels[is_class]]).astype(np.uint8)
    return picture

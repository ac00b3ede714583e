"""Drawings of class maps: class colours over an image, panels side by side, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.labels.label_map import voc_color_map
from ..data.loading.transforms import resize_image, resize_label, scaled_size
from ..host import MetadataCatalog

_DPI = 120
# Limits of a panel, in inches: of its longer side, and of its shorter side.
_SMALLEST, _LARGEST, _THINNEST = 2.6, 10.0, 0.5
_LINE = 0.3  # height of a line of text, in inches
Row = tuple[np.ndarray, Sequence[np.ndarray]]  # an image, uint8 (H, W, 3), RGB, and its label maps, integers (H, W)


def class_colors(dataset_name: str) -> np.ndarray:
    """Return the class colours of a data set, (K, 3), RGB, 0 to 255; VOC's if it has none."""
    metadata = MetadataCatalog.get(dataset_name)
    return np.asarray(metadata.get("stuff_colors") or voc_color_map(len(metadata.stuff_classes)))


def classes_in(labels: np.ndarray, num_classes: int) -> list[int]:
    """Return the class indices that occur in a label map of integers, in order."""
    return [label for label in np.unique(labels).tolist() if 0 <= label < num_classes]


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, opacity: float = 0.65) -> np.ndarray:
    """Return a copy of the image with class colours over it.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) class indices; the image stays as it is where the label is no class.
        colors: (K, 3), 0 to 255, in the channel order of the image.
        opacity: of the colours, 0 to 1.
    """
    is_class = (labels >= 0) & (labels < len(colors))
    painted = image.copy()
    painted[is_class] = ((1 - opacity) * image[is_class] + opacity * colors[labels[is_class]]).astype(np.uint8)
    return painted


def draw_panels(
    rows: Sequence[Row], titles: Sequence[str], names: Sequence[str], colors: np.ndarray, path: str
) -> None:
    """Write a PNG with a row for each image: the image, its label maps over it, and below all rows a legend.

    Args:
        rows: images with their label maps.
        titles: titles of the columns, the image's first.
        names: the K class names.
        colors: (K, 3), RGB, 0 to 255.
        path: PNG to write, with images in their own size within limits.
    """
    from matplotlib.figure import Figure  # takes half a second, and most runs draw nothing

    occurring = {label for _, maps in rows for labels in maps for label in classes_in(labels, len(colors))}
    sizes = np.array([image.shape[:2] for image, _ in rows]) / _DPI
    sizes *= np.clip(sizes.max(), _SMALLEST, _LARGEST) / sizes.max()
    height, width = sizes.max(axis=0).clip(_THINNEST)
    columns = 2 * len(titles)
    lines = 1 + -(-len(occurring) // columns)
    figure = Figure((width * len(titles), height * len(rows) + _LINE * lines), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, (image, maps) in zip(axes, rows, strict=True):
        size = scaled_size(image.shape[:2], min(image.shape[:2]), round(_LARGEST * _DPI))
        image = resize_image(image, size)
        panels = [image, *(overlay(image, resize_label(labels.astype(np.uint8), size), colors) for labels in maps)]
        for axis, panel in zip(row, panels, strict=True):
            axis.imshow(panel)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    _add_legend(figure, occurring, names, colors, columns, loc="outside lower center")
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def draw_legend(classes: Iterable[int], names: Sequence[str], colors: np.ndarray, path: str) -> None:
    """Write a PNG or SVG with colours and names of these classes; see :func:`draw_panels` for the other arguments."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    _add_legend(figure, classes, names, colors, 1, loc="center")
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def _add_legend(
    figure: Any, classes: Iterable[int], names: Sequence[str], colors: np.ndarray, columns: int, loc: str
) -> None:
    from matplotlib.patches import Patch

    shown = sorted(classes)
    handles = [Patch(facecolor=np.asarray(colors[label]) / 255, edgecolor="gray") for label in shown]
    # Matplotlib reads a plain dollar as the start of a formula.
    texts = [names[label].replace("$", r"\$") for label in shown]
    figure.legend(handles, texts, loc=loc, ncols=max(1, min(len(shown), columns)), frameon=False)

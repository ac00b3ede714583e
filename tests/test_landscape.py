"""The drawn landscapes of the demo: labels, classes, and colours that do not tell them."""

import numpy as np
import pytest
from conftest import REPO

from rc2l_d2.data.datasets.description import load_definition
from rc2l_d2.data.toy.dataset import draw_image, draw_toy_dataset
from rc2l_d2.data.toy.landscape import SEASONS, draw_landscape
from rc2l_d2.data.toy.scene import VOID

SIZE = (64, 64)


@pytest.fixture(scope="module")
def scenes():
    return [draw_image(5, "train", index, SIZE, draw_landscape) for index in range(100)]


def around(values: np.ndarray) -> np.ndarray:
    """(9, H, W): the values of each pixel's neighbourhood; the image goes on beyond its border."""
    padded = np.pad(values, 1, mode="edge")
    return np.stack([padded[y : y + SIZE[0], x : x + SIZE[1]] for y in range(3) for x in range(3)])


def test_later_layers_win_and_void_lies_on_the_far_side_of_class_borders(scenes):
    for scene in scenes:
        expected, order = np.zeros(SIZE, int), np.zeros(SIZE, int)
        for place, (class_index, mask) in enumerate(scene.layers, start=1):
            expected[mask], order[mask] = class_index, place
        certain = scene.label != VOID
        assert (scene.label[certain] == expected[certain]).all()
        border = (around(expected) != expected).any(axis=0) & (around(order) > order).any(axis=0)
        assert (~certain == border).all()


def test_every_class_is_frequent_and_large(scenes):
    pixels = np.stack([np.bincount(scene.label.ravel(), minlength=256)[: len(SEASONS)] for scene in scenes])
    assert (pixels > 50).mean(axis=0).min() > 0.6
    assert (pixels.mean(axis=0) / np.prod(SIZE)).min() > 0.05


def test_colors_alone_tell_few_classes(scenes):
    """The nearest neighbour in colour, among all pixels of eight images, is a poor classifier of other images."""
    colors = [np.float32(scene.image[scene.label != VOID]) for scene in scenes[:28]]
    labels = [scene.label[scene.label != VOID] for scene in scenes[:28]]
    known, answers = np.concatenate(colors[:8])[::16], np.concatenate(labels[:8])[::16]
    asked, truth = np.concatenate(colors[8:])[::64], np.concatenate(labels[8:])[::64]
    nearest = np.linalg.norm(asked[:, None] - known[None], axis=2).argmin(axis=1)
    assert (answers[nearest] == truth).mean() < 0.5


def test_description_names_the_classes_in_their_order():
    definition = load_definition(REPO / "configs/demo/dataset.yaml")
    assert list(definition.classes) == list(SEASONS) and definition.ignore_value == VOID


def test_another_scene_replaces_the_set(tmp_path):
    assert draw_toy_dataset(tmp_path / "set", 2, 1, SIZE)
    assert draw_toy_dataset(tmp_path / "set", 2, 1, SIZE, draw=draw_landscape)
    assert not draw_toy_dataset(tmp_path / "set", 2, 1, SIZE, draw=draw_landscape)

"""The generated toy set: its files, its repeatability, and what it refuses."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, call_command, load_script
from PIL import Image

from rc2l_d2.data.datasets.description import load_definition
from rc2l_d2.data.labels.label_map import voc_color_map
from rc2l_d2.data.toy.dataset import draw_image, draw_own_images, draw_toy_dataset
from rc2l_d2.data.toy.landscape import draw_landscape
from rc2l_d2.data.toy.scene import SHAPES, VOID
from rc2l_d2.errors import InputError

draw_toy = load_script("tools/draw_toy.py")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "set"
    assert draw_toy_dataset(root, 64, 4, seed=3)
    return root


def test_layout_and_labels(drawn):
    names = {split: [f"{split}_{index:05d}" for index in range(n)] for split, n in (("train", 64), ("val", 4))}
    for split, expected in names.items():
        assert (drawn / f"ImageSets/Segmentation/{split}.txt").read_text().split() == expected
    everything = names["train"] + names["val"]
    assert set(contents(drawn)) == {
        "toy.json",
        *(f"ImageSets/Segmentation/{split}.txt" for split in names),
        *(f"JPEGImages/{name}.jpg" for name in everything),
        *(f"SegmentationClass/{name}.png" for name in everything),
    }
    pixels = np.zeros(256, int)
    for name in everything:
        label, image = Image.open(drawn / f"SegmentationClass/{name}.png"), Image.open(drawn / f"JPEGImages/{name}.jpg")
        assert label.mode == "P" and tuple(label.getpalette()[: 3 * 256]) == tuple(np.ravel(voc_color_map(256)))
        assert image.mode == "RGB" and image.size == label.size == (96, 96)
        pixels += np.bincount(np.ravel(label), minlength=256)
    assert set(np.flatnonzero(pixels)) == {*range(8), VOID}
    fractions = pixels / pixels.sum()
    assert 0.5 < fractions[0] < 0.85 and fractions[1:8].min() > 0.01


def test_own_images_are_those_of_the_set_with_labels_for_some(drawn, tmp_path):
    draw_own_images(tmp_path, 3, 2, seed=3)
    files, same = contents(tmp_path), contents(drawn)
    assert set(files) == {
        *(f"photos/0000{index}.jpg" for index in range(3)),
        *(f"masks/0000{index}.png" for index in range(3)),
        *(f"more/0000{index}.jpg" for index in (3, 4)),
    }
    for name, content in files.items():
        kind = "SegmentationClass" if name.startswith("masks") else "JPEGImages"
        assert content == same[f"{kind}/train_{name.split('/')[1]}"]
    with pytest.raises(InputError, match="photos is there already; choose another root"):
        draw_own_images(tmp_path, 3, 2)
    with pytest.raises(InputError, match="the number of unlabelled images is 0; it must be from 1"):
        draw_own_images(tmp_path / "new", 3, 0)
    assert contents(tmp_path) == files


def test_an_image_depends_on_seed_split_and_number_alone(drawn, tmp_path):
    np.random.seed(1)
    draw_toy_dataset(tmp_path, 6, 2, seed=3)
    smaller, larger = contents(tmp_path), contents(drawn)
    same = [name for name in smaller if name.endswith((".jpg", ".png"))]
    assert len(same) == 16 and all(smaller[name] == larger[name] for name in same)


def test_seed_split_and_index_make_another_image():
    images = [draw_image(*key).image for key in ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))]
    for index, image in enumerate(images):
        assert all((image != other).mean() > 0.5 for other in images[:index])


def test_later_layers_win_and_objects_have_a_border():
    occluded = 0
    for index in range(40):
        scene = draw_image(5, "train", index)
        expected = np.zeros((96, 96), int)
        front = np.zeros((96, 96), int)
        for order, (class_index, mask) in enumerate(scene.layers, start=1):
            occluded += bool(class_index and (front[mask] > 0).any() and expected[mask].any())
            expected[mask] = class_index
            front[mask] = order if class_index else 0
        certain = scene.label != VOID
        assert (scene.label[certain] == expected[certain]).all()
        # Void exactly where one of the eight neighbours belongs to an object further in front.
        padded = np.pad(front, 1)
        around = np.max([padded[y : y + 96, x : x + 96] for y in range(3) for x in range(3)], axis=0)
        assert (~certain == (around > front)).all()
    assert occluded >= 10


def test_half_of_every_object_stays_in_sight():
    for index in range(40):
        layers = draw_image(6, "val", index).layers
        assert 1 <= sum(class_index > 0 for class_index, _ in layers) <= 4
        for place, (class_index, mask) in enumerate(layers):
            if class_index:
                hidden = np.any([np.zeros_like(mask), *(later for _, later in layers[place + 1 :])], axis=0)
                assert 2 * (mask & ~hidden).sum() >= mask.sum() > 50


def test_the_set_is_kept_or_replaced(tmp_path):
    root = tmp_path / "set"
    assert draw_toy_dataset(root, 3, 1)
    assert not draw_toy_dataset(root, 3, 1)
    (root / "JPEGImages" / "train_00001.jpg").unlink()
    assert draw_toy_dataset(root, 3, 1)

    def interrupted(names):
        yield from names[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_toy_dataset(root, 4, 1, progress=interrupted)
    assert draw_toy_dataset(root, 2, 1, seed=1)
    draw_toy_dataset(tmp_path / "fresh", 2, 1, seed=1)
    assert contents(root) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("change", [{"num_train": 0}, {"num_val": 100_001}, {"size": (96, 16)}, {"seed": -1}])
def test_parameters_out_of_range(tmp_path, change):
    with pytest.raises(InputError, match="must be"):
        draw_toy_dataset(tmp_path / "set", **{"num_train": 2, "num_val": 1, **change})
    assert not (tmp_path / "set").exists()


def test_description_names_the_shapes_in_their_order():
    definition = load_definition(REPO / "configs/toy/dataset.yaml")
    assert list(definition.classes) == ["background", *SHAPES]
    assert definition.ignore_value == VOID


def test_command(tmp_path, monkeypatch):
    draw = partial(call_command, monkeypatch, "draw_toy.py", draw_toy.main)
    root = tmp_path / "set"
    options = ("--root", root, "--train", 3, "--val", 1, "--size", 32, 48, "--seed", 7)
    result = draw(*options)
    assert result.returncode == 0 and str(root) in result.stdout, result.stderr
    draw_toy_dataset(tmp_path / "fresh", 3, 1, size=(32, 48), seed=7)
    assert contents(root) == contents(tmp_path / "fresh")
    assert {Image.open(file).size for file in root.rglob("*_0*.*")} == {(48, 32)}
    (root / "thesis.tex").write_text("my only copy")
    before, result = contents(root), draw(*options[:-1], 8)
    assert result.returncode == 2 and "thesis.tex" in result.stderr and len(result.stderr.splitlines()) == 1
    assert contents(root) == before
    result = draw("--own", 2, 1, "--root", tmp_path / "own", "--size", 32, 32)
    assert "classes, from value 0 on: sky,mountain,meadow,lake,tree,house; 255 has no class" in result.stdout
    draw_own_images(tmp_path / "landscapes", 2, 1, (32, 32), draw=draw_landscape)
    assert contents(tmp_path / "own") == contents(tmp_path / "landscapes") and len(contents(tmp_path / "own")) == 5

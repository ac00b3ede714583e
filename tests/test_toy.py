"""The drawn toy set: what it writes, that it repeats, and what it refuses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rc2l_d2.data.datasets.description import load_definition, voc_color_map
from rc2l_d2.data.toy.dataset import SHAPES, draw_image, draw_own_pictures, draw_toy_dataset
from rc2l_d2.data.toy.scene import VOID
from rc2l_d2.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "set"
    assert draw_toy_dataset(root, 64, 4, seed=3)
    return root


def test_layout(drawn):
    files = set(contents(drawn))
    train, val = ([f"{part}_{index:05d}" for index in range(n)] for part, n in (("train", 64), ("val", 4)))
    assert files == {
        "toy.json",
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
        *(f"JPEGImages/{name}.jpg" for name in train + val),
        *(f"SegmentationClass/{name}.png" for name in train + val),
    }
    assert (drawn / "ImageSets/Segmentation/train.txt").read_text().split() == train
    assert (drawn / "ImageSets/Segmentation/val.txt").read_text().split() == val


def test_labels(drawn):
    seen = np.zeros(256, int)
    for file in sorted((drawn / "SegmentationClass").iterdir()):
        label = Image.open(file)
        assert label.mode == "P"
        assert tuple(label.getpalette()[: 3 * 256]) == tuple(np.ravel(voc_color_map(256)))
        image = Image.open(drawn / "JPEGImages" / f"{file.stem}.jpg")
        assert image.mode == "RGB" and image.size == label.size == (96, 96)
        seen += np.bincount(np.ravel(label), minlength=256)
    assert set(np.flatnonzero(seen)) == {*range(8), VOID}
    share = seen / seen.sum()
    assert 0.5 < share[0] < 0.85 and share[1:8].min() > 0.01


def test_own_pictures_are_those_of_the_set_with_labels_for_some(drawn, tmp_path):
    draw_own_pictures(tmp_path, 3, 2, seed=3)
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
        draw_own_pictures(tmp_path, 3, 2)
    with pytest.raises(InputError, match="the number of unlabelled images is 0; it must be from 1"):
        draw_own_pictures(tmp_path / "new", 3, 0)
    assert contents(tmp_path) == files


def test_same_seed_same_bytes_whatever_else_uses_chance(drawn, tmp_path):
    np.random.seed(1)
    draw_toy_dataset(tmp_path / "a", 6, 2, seed=3)
    np.random.seed(2)
    draw_toy_dataset(tmp_path / "b", 6, 2, seed=3)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    # An image depends on its own number, not on how many there are.
    larger = contents(drawn)
    same = [name for name in first if name.endswith((".jpg", ".png"))]
    assert len(same) == 16 and all(first[name] == larger[name] for name in same)


def test_seed_part_and_index_make_another_image():
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


def test_size_is_height_and_width(tmp_path):
    draw_toy_dataset(tmp_path / "set", 2, 1, size=(40, 72))
    for folder in ("JPEGImages", "SegmentationClass"):
        assert {Image.open(file).size for file in (tmp_path / "set" / folder).iterdir()} == {(72, 40)}


def test_drawn_once_and_replaced_when_asked_for_another(tmp_path):
    root = tmp_path / "set"
    assert draw_toy_dataset(root, 3, 1)
    assert not draw_toy_dataset(root, 3, 1)
    (root / "JPEGImages" / "train_00001.jpg").unlink()
    assert draw_toy_dataset(root, 3, 1)
    assert draw_toy_dataset(root, 2, 1, seed=1)
    draw_toy_dataset(tmp_path / "fresh", 2, 1, seed=1)
    assert contents(root) == contents(tmp_path / "fresh")


def test_a_run_that_broke_off_can_be_repeated(tmp_path):
    def breaks_off(names):
        yield from names[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_toy_dataset(tmp_path / "set", 3, 1, progress=breaks_off)
    assert draw_toy_dataset(tmp_path / "set", 3, 1)
    draw_toy_dataset(tmp_path / "fresh", 3, 1)
    assert contents(tmp_path / "set") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    "change", [{"num_train": 0}, {"num_val": 100_001}, {"size": (96, 16)}, {"seed": -1}], ids=lambda change: str(change)
)
def test_parameters_out_of_range(tmp_path, change):
    with pytest.raises(InputError, match="must be"):
        draw_toy_dataset(tmp_path / "set", **{"num_train": 2, "num_val": 1, **change})
    assert not (tmp_path / "set").exists()


def test_description_names_the_shapes_in_their_order():
    definition = load_definition(REPOSITORY / "configs/toy/dataset.yaml")
    assert list(definition.classes) == ["background", *SHAPES]
    assert definition.ignore_value == VOID


def command(*args: object) -> subprocess.CompletedProcess:
    line = [sys.executable, str(REPOSITORY / "tools/draw_toy.py"), *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_command_draws_and_names_the_folder(tmp_path):
    root = tmp_path / "set"
    result = command("--root", root, "--train", 3, "--val", 1, "--size", 32, 48, "--seed", 7)
    assert result.returncode == 0, result.stderr
    assert str(root) in result.stdout
    draw_toy_dataset(tmp_path / "fresh", 3, 1, size=(32, 48), seed=7)
    assert contents(root) == contents(tmp_path / "fresh")


def test_command_refuses_a_folder_with_other_things(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("my only copy")
    specification = importlib.util.spec_from_file_location("draw_toy", REPOSITORY / "tools/draw_toy.py")
    draw_toy = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(draw_toy)
    monkeypatch.setattr(sys, "argv", ["draw_toy.py", "--root", str(tmp_path), "--train", "3", "--val", "1"])
    assert draw_toy.main() == 2
    errors = capsys.readouterr().err
    assert "thesis.tex" in errors and len(errors.strip().splitlines()) == 1
    assert contents(tmp_path) == {"thesis.tex": b"my only copy"}

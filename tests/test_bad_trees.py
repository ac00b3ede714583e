"""Data sets with one mistake each, and the one sentence that a user gets for it before training."""

import os
import re
from collections.abc import Callable

import numpy as np
import pytest
from conftest import REPO, TINY
from data_files import SMALL_SIZE as SIZE
from data_files import SmallTree as Tree
from data_files import write_label

from rc2l_d2.data import check_training_data
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

CONFIG = str(REPO / "configs/toy/rc2l_R18.yaml")
GOOD_LABEL = np.resize(np.arange(3, dtype=np.uint8), SIZE)
MASK = np.where(GOOD_LABEL == 0, 0, 255).astype(np.uint8)
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
Spoil = Callable[[Tree], object]


def yaml_key(**values) -> Spoil:
    return lambda tree: tree.content.update(values)


def split(**splits) -> Spoil:
    return lambda tree: tree.content["parts"].update(splits)


def config(**values) -> Spoil:
    return lambda tree: tree.config.update({key.replace("__", "."): value for key, value in values.items()})


def named(stream: str, *splits: str) -> Spoil:
    return lambda tree: tree.config.update({f"DATASETS.{stream}": tree.named(*splits)})


def labels(value: np.ndarray) -> Spoil:
    return lambda tree: [write_label(tree.folder / f"labels/train_{i:03d}.png", value) for i in range(10)]


def written(file: str, content: str | bytes) -> Spoil:
    return lambda tree: tree.write(file, content)


def linked_image(tree: Tree) -> None:
    (tree.folder / "images/web").mkdir()
    (tree.folder / "images/web/other.png").symlink_to(tree.folder / "images/val_000.png")


# fmt: off
# Name, the mistakes, and the expected sentence. The first comes first, so that the message names no other test's data.
CASES: list[tuple[str, list[Spoil], str]] = [
    ("an unknown data set", [named("TRAIN", "labelled")],
     r"DATASETS\.TRAIN names .*'small\d+_labelled', which is not registered; did you mean small\d+_labeled.*voc"),
    # The files.
    ("text instead of an image", [written("images/train_002.png", "<html>404</html>")],
     r"DATASETS\.TRAIN .*image.* cannot be (read|decoded).*train_002\.png"),
    ("half a label of a test image", [lambda tree: os.truncate(tree.folder / "labels/val_001.png", 200)],
     r"DATASETS\.TEST .*label.* cannot be (read|decoded).*val_001\.png"),
    ("labels coded in colours", [labels(COLORS[GOOD_LABEL])],
     r"DATASETS\.TRAIN .*labels.*colours.*train_002\.png.*label_map"),
    ("masks of 0 and 255, the ignore value", [labels(MASK)],
     r"DATASETS\.TRAIN .*no class but 'class0' .*label_map .*255 is read as 'ig"),
    ("a value that the label map does not list", [yaml_key(label_map={0: "class0", 1: "class1", 2: "ignore"})],
     r"DATASETS\.TRAIN .*no class.*train_009\.png .*255.*label_map"),
    ("a label of another size", [labels(GOOD_LABEL[:, :24])],
     r"DATASETS\.TRAIN .*another size.*_009\.png \(each: label 24x40, image 48x40\)"),
    ("labels of nothing but the ignore value", [labels(np.full(SIZE, 255, np.uint8))],
     r"DATASETS\.TRAIN .*ignore value on every pixel.*train_002\.png"),
    # The lists.
    ("a list that leaves the data set's folder", [written("train.txt", "../x/train_000.png\n")],
     r"list .*/train\.txt names '\.\./x/train_000\.png', outside"),
    ("test images among the labelled", [named("TRAIN", "labeled", "val")],
     r"DATASETS\.TRAIN and DATASETS\.TEST share 3 images: .*val_000\.png.*; take"),
    ("a test image under another name", [linked_image, split(unlabeled={"folder": "web"})],
     r"DATASETS\.UNLABELED and DATASETS\.TEST share 1 image: .*(val_000|other)"),
    # The description and the configuration.
    ("a folder that leads out of the data set", [yaml_key(images="../photos")],
     r"set\.yaml: the key 'images' names \.\./photos, which leads out of"),
    ("no YAML file", [config(DATASETS__DEFINITIONS=("gone.yaml",))],
     r"DATASETS\.DEFINITIONS names gone\.yaml, which is not a file \(.*/gone\.yaml\);"),
    ("another number of classes", [config(MODEL__SEM_SEG_HEAD__NUM_CLASSES=21)],
     r"MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 21, but 'small\d+_labeled' in DATASETS\.TRAIN"),
    ("another ignore value", [yaml_key(ignore_value=254)],
     r"MODEL\.SEM_SEG_HEAD\.IGNORE_VALUE is 255, but 'small\d+_labeled' in DATASETS\.TRAIN"),
    ("no unlabelled data", [config(DATASETS__UNLABELED=())],
     r"DATASETS\.UNLABELED = \(\) holds no image; name a split .* RegionSegmentor"),
]
# fmt: on


@pytest.mark.parametrize(("name", "mistakes", "expected"), CASES, ids=[name for name, _, _ in CASES])
def test_bad_tree(tmp_path, name, mistakes, expected):
    tree = Tree(tmp_path)
    for spoil in mistakes:
        spoil(tree)
    with pytest.raises(InputError) as caught:
        check_training_data(load_config(CONFIG, tree.options()))
    message = str(caught.value)
    assert re.search(expected, message), message
    # One sentence on one line, with an advice.
    assert "\n" not in message and message.endswith(".") and "Traceback" not in message
    assert re.search(r"; |\. |did you mean", message), message


def test_bad_tree_through_the_command_line(command_line, tmp_path):
    tree = Tree(tmp_path)
    tree.write("train.txt", "train_000\ntrain_001\ntrain_000\n")
    result = command_line("--config-file", CONFIG, *TINY, *tree.options())
    assert result.returncode == 2, result.stderr
    # Without torch's own log lines.
    (line,) = [line for line in result.stderr.strip().splitlines() if not re.match(r"W\d+ .*torch/", line)]
    assert re.match(r"train_net\.py: .*the list .*/train\.txt names 1 image twice, '.*/train_000\.png' among", line)

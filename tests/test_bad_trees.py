"""Trees, lists and descriptions that are spoilt in one way each, and the one sentence that a user gets for it.

``python tests/test_bad_trees.py`` prints them as a Markdown table.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, TINY
from data_files import SMALL_SIZE as SIZE
from data_files import SmallTree as Tree
from data_files import write_image, write_label
from PIL import Image

from rc2l_d2.data import check_training_data
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

CONFIG = str(REPO / "configs/toy/rc2l_R18.yaml")

Spoil = Callable[[Tree], object]
CASES: dict[str, tuple[Spoil, str]] = {}
# Those that are shown through the command line as well.
COMMAND_LINE = ("an image twice in a list", "misspelt key in the YAML file")
_GOOD_LABEL = np.resize(np.arange(3, dtype=np.uint8), SIZE)


def case(name: str, message: str) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        CASES[name] = (spoil, message)
        return spoil

    return add


def _changed(**values) -> Spoil:
    return lambda tree: tree.content.update(values)


def _part(**parts) -> Spoil:
    return lambda tree: tree.content["parts"].update(parts)


def _configured(**values) -> Spoil:
    return lambda tree: tree.config.update({key.replace("__", "."): value for key, value in values.items()})


def _labels(value: np.ndarray, count: int = 10) -> Spoil:
    def spoil(tree: Tree) -> None:
        for number in range(count):
            write_label(tree.folder / f"labels/train_{number:03d}.png", value)

    return spoil


def _files(content: bytes | None, *files: str) -> Spoil:
    """Overwrite files, or delete them."""

    def spoil(tree: Tree) -> None:
        for file in files:
            if content is None:
                (tree.folder / file).unlink()
            else:
                (tree.folder / file).write_bytes(content)

    return spoil


def _train_list(content: str | bytes) -> Spoil:
    return lambda tree: tree.write("train.txt", content)


def _cut_jpeg(tree: Tree) -> None:
    picture = tree.folder / "images/cut.jpg"
    write_image(picture, np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8))
    picture.write_bytes(picture.read_bytes()[:9000])


def _labeled_list(content: str) -> Spoil:
    def spoil(tree: Tree) -> None:
        tree.config["DATASETS.LABELED_LIST"] = tree.write("labeled.txt", content)

    return spoil


# First, so that the table names no other of the trees.
case("an unknown data set", r"DATASETS\.TRAIN names .*'small\d+_labelled', which is not registered; did you mean ")(
    lambda tree: tree.config.update({"DATASETS.TRAIN": tree.named("labelled")})
)

# --- the tree ---------------------------------------------------------------------------------------------------------

case("no folder at the root", r"set\.yaml: the folder of data set 'small\d+' was not found \(searched: .*/data\);")(
    lambda tree: tree.folder.rename(tree.folder.with_name("moved"))
)
case("no image folder", r"split 'labeled': 4 of 4 image files are missing: .*/images/train_")(
    lambda tree: (tree.folder / "images").rename(tree.folder / "pictures")
)
case("wrong image suffix", r"split 'labeled': 4 of 4 image files are missing: .*/images/train_\d+\.jpg")(
    _changed(image_suffix=".jpg")
)
case("3 missing images", r"split 'train': 3 of 10 image files are missing: .*_001\.png, .*_004\.png, .*_007\.png;")(
    lambda tree: (
        _files(None, "images/train_001.png", "images/train_004.png", "images/train_007.png")(tree),
        tree.config.update({"DATASETS.TRAIN": tree.named("train")}),
    )
)
case("a missing label", r"split 'labeled': 1 of 4 label files are missing: .*/labels/train_002\.png; complete")(
    _files(None, "labels/train_002.png")
)
case("wrong label suffix", r"split 'labeled': 4 of 4 label files are missing: .*/labels/train_002_mask\.png")(
    _changed(label_suffix="_mask.png")
)
case("a labelled part without labels", r"data set 'small\d+' has no key 'labels'; add it, or use")(
    lambda tree: tree.content.pop("labels")
)
case("a folder part that is not there", r"split 'unlabeled' names the folder .*/images/web, which does not exist;")(
    lambda tree: tree.content["parts"].update(unlabeled={"folder": "web"})
)
case("a pattern that nothing matches", r"split 'unlabeled' holds no image: the pattern 'web/\*\.png' below .*/images/")(
    _part(unlabeled={"pattern": "web/*.png"})
)

# --- the files --------------------------------------------------------------------------------------------------------

case("text instead of an image", r"DATASETS\.TRAIN .*image.* cannot be (read|decoded).*train_002\.png")(
    _files(b"<html>404</html>", "images/train_002.png")
)
case("empty image among the unlabelled", r"DATASETS\.UNLABELED .*image.* cannot be (read|decoded).*train_000\.png")(
    _files(b"", "images/train_000.png")
)
case("a JPEG that ends too early", r"DATASETS\.UNLABELED .*images.* cannot be read.*cut\.jpg \(.*ends too early\)")(
    lambda tree: (
        _cut_jpeg(tree),
        tree.config.update({"DATASETS.UNLABELED_LIST": tree.write("web.txt", "images/cut.jpg")}),
    )
)
case("a labelled JPEG that ends too early", r"DATASETS\.TRAIN .*images that cannot .*cut\.jpg \(.*ends too early\)")(
    lambda tree: (
        _cut_jpeg(tree),
        write_label(tree.folder / "labels/cut.png", np.resize(np.arange(3, dtype=np.uint8), (200, 200))),
        _labeled_list("images/cut.jpg labels/cut.png")(tree),
    )
)
case("label of no bytes", r"DATASETS\.TRAIN .*label.* cannot be (read|decoded).*train_002\.png")(
    _files(b"", "labels/train_002.png")
)
case("label of a test image that is half there", r"DATASETS\.TEST .*label.* cannot be (read|decoded).*val_001\.png")(
    lambda tree: tree.write("labels/val_001.png", (tree.folder / "labels/val_001.png").read_bytes()[:200])
)
case("labels coded in colours", r"DATASETS\.TRAIN .*labels.*colours.*train_002\.png.*label_map")(
    _labels(np.resize(np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8), (*SIZE, 3)))
)
case("a label value that is no class", r"DATASETS\.TRAIN .*no class \(0 to 2\).*train_009\.png \(each: 37\)")(
    _labels(np.where(_GOOD_LABEL == 2, 37, _GOOD_LABEL).astype(np.uint8))
)
case("binary masks of 0 and 255", r"DATASETS\.TRAIN .*(ignore|class).*")(
    lambda tree: (
        _labels(np.where(_GOOD_LABEL == 0, 0, 255).astype(np.uint8))(tree),
        _changed(ignore_value=254)(tree),
        _configured(MODEL__SEM_SEG_HEAD__IGNORE_VALUE=254)(tree),
    )
)
case("binary masks without a label map", r"DATASETS\.TRAIN .*no class but 'class0' .*label_map .*255 is read as 'ig")(
    _labels(np.where(_GOOD_LABEL == 0, 0, 255).astype(np.uint8))
)
case("labels as JPEG", r"DATASETS\.TRAIN .*labels that cannot .*train_009\.jpg \(each: .*JPEG, which .*\); .*PNG")(
    lambda tree: (
        [
            Image.fromarray(_GOOD_LABEL).save(file.with_suffix(".jpg"), quality=100)
            for file in (tree.folder / "labels").iterdir()
        ],
        _changed(label_suffix=".jpg")(tree),
    )
)
case("16-bit labels", r"DATASETS\.TRAIN .*no class.*train_009\.png .*7000")(
    _labels((_GOOD_LABEL.astype(np.uint16)) * 3500)
)
case("a value that the label map does not list", r"DATASETS\.TRAIN .*no class.*train_009\.png .*255.*label_map")(
    _changed(label_map={0: "class0", 1: "class1", 2: "ignore"})
)
case("a label of another size", r"DATASETS\.TRAIN .*another size.*_009\.png \(each: label 24x40, image 48x40\)")(
    _labels(_GOOD_LABEL[:, :24])
)
case("labels of nothing but the ignore value", r"DATASETS\.TRAIN .*ignore value on every pixel.*train_002\.png")(
    _labels(np.full(SIZE, 255, np.uint8))
)


case("labels among the unlabelled images", r"3 of \d+ sampled images are labels, .*/images/val_000_m\.png")(
    lambda tree: (
        [tree.write(f"images/val_{number:03d}_m.png", b"") for number in range(3)],
        _changed(labels=["labels", {"folder": "images", "suffix": "_m.png"}])(tree),
        _part(unlabeled={"folder": "."})(tree),
    )
)
case("labels that a list names as unlabelled images", r"UNLABELED and the labels of .*TRAIN share 2 files: .*gt/a")(
    lambda tree: (
        [write_label(tree.folder / f"images/gt/{name}.png", _GOOD_LABEL) for name in "ab"],
        _labeled_list("images/train_000.png images/gt/a.png\nimages/train_001.png images/gt/b.png")(tree),
        _part(unlabeled={"folder": "gt"})(tree),
    )
)

# --- the lists --------------------------------------------------------------------------------------------------------

case("no list", r"split 'train': the list .*/train\.txt cannot be read \(No such file or directory\); put it there")(
    _files(None, "train.txt")
)
case("an image twice in a list", r"the list .*/train\.txt names 1 image twice, '.*/train_000\.png' among them;")(
    _train_list("train_000\ntrain_001\ntrain_000\n")
)
case("an empty list", r"split 'train' holds no image: the list .*/train\.txt is empty; fill it")(_train_list("\n"))
case("a list that is not UTF-8", r"the list .*/train\.txt is not UTF-8 text; save it as such")(
    _train_list("train_000\ncafé\n".encode("latin-1"))
)
case("a list that leaves the data set's folder", r"list .*/train\.txt names '\.\./x/train_000\.png', outside")(
    _train_list("../x/train_000.png\n")
)
case("a list with three columns", r"the list .*/train\.txt has a line with more than an image and a label: 'images/tr")(
    _train_list("images/train_000.png labels/train_000.png edges/train_000.png\n")
)
case("a list of ids and of paths", r"the list .*/train\.txt mixes ids \('train_001'\) and paths of images \('images/t")(
    _train_list("images/train_000.png\ntrain_001\n")
)
case("a list with a label missing", r"the list .*train\.txt has a line with not as many fields as the one before: 'i")(
    _train_list("images/train_000.png labels/train_000.png\nimages/train_001.png\n")
)
case("labelled images among the unlabelled", r"DATASETS\.TRAIN and DATASETS\.UNLABELED share 4 images: .*train_002")(
    lambda tree: tree.config.update({"DATASETS.UNLABELED": tree.named("train")})
)
case("test images among the labelled", r"DATASETS\.TRAIN and DATASETS\.TEST share 3 images: .*val_000\.png.*; take")(
    lambda tree: tree.config.update({"DATASETS.TRAIN": tree.named("labeled", "val")})
)
case("test images among the unlabelled", r"DATASETS\.UNLABELED and DATASETS\.TEST share 1 image: .*val_001\.png; take")(
    lambda tree: (
        tree.write("web.txt", "images/train_000.png\nimages/val_001.png"),
        tree.config.update({"DATASETS.UNLABELED_LIST": str(tree.folder / "web.txt")}),
    )
)
case("a test image under another name", r"DATASETS\.UNLABELED and DATASETS\.TEST share 1 image: .*(val_000|other)")(
    lambda tree: (
        (tree.folder / "images/web").mkdir(),
        (tree.folder / "images/web/other.png").symlink_to(tree.folder / "images/val_000.png"),
        _part(unlabeled={"folder": "web"})(tree),
    )
)
case("a part named twice", r"DATASETS\.UNLABELED .*repeats 6 images: .*train_000\.png")(
    lambda tree: tree.config.update({"DATASETS.UNLABELED": tree.named("unlabeled", "unlabeled")})
)
case("a list in the configuration that is not there", r"^DATASETS\.LABELED_LIST with data set .*: the list .*/gone")(
    lambda tree: tree.config.update({"DATASETS.LABELED_LIST": str(tree.folder / "gone.txt")})
)
case("a list of images that are not there", r"^DATASETS\.LABELED_LIST .*: 2 of 2 image files are .*labeled\.txt")(
    _labeled_list("images/a.png labels/a.png\nimages/b.png labels/b.png")
)

case("a list of names that several images have", r"and for 1 of 1 there are several of .*'train_000' among")(
    lambda tree: (
        write_image(tree.folder / "images/web/train_000.png", np.zeros((*SIZE, 3), np.uint8)),
        _labeled_list("old/train_000.png labels/train_000.png")(tree),
    )
)

# --- the description and the configuration ----------------------------------------------------------------------------

case("misspelt key in the YAML file", r"set\.yaml: unknown key 'image_sufix'; the keys of a data set are name, root")(
    _changed(image_sufix=".png")
)
case("misspelt key of a part", r"set\.yaml: the key 'parts\.web' cannot be used; it must be \{list: FILE\}, \{folder:")(
    _part(web={"folders": "web"})
)
case("a key left out", r"set\.yaml: the key 'classes' is missing; add it \(datasets/README\.md has an example\)")(
    lambda tree: tree.content.pop("classes")
)
case(
    "a key twice",
    r"set\.yaml: this is not valid YAML near line 4 \(the key 'classes' is there a second time\); remove one",
)(
    lambda tree: tree.config.update(
        {"DATASETS.DEFINITIONS": (tree.write("set.yaml", "name: a\nclasses: [a]\nroot: b\nclasses: [b]\n"),)}
    )
)
case("a folder that leads out of the data set", r"set\.yaml: the key 'images' names \.\./photos, which leads out of")(
    _changed(images="../photos")
)
case("a suffix without its dot", r"set\.yaml: the key 'image_suffix' .*what follows an id, with the dot: '\.png'")(
    _changed(image_suffix="png")
)
case("a palette of another length", r"set\.yaml: the key 'palette' cannot be used; it must be a list of 3 colours")(
    _changed(palette=[[0, 0, 0], [255, 255, 255]])
)
case("a class twice", r"set\.yaml: the key 'classes' cannot be used; it must be different names \('road' is")(
    _changed(classes=["road", "car", "road"])
)
case("a class that YAML takes for a truth value", r"set\.yaml: the key 'classes' cannot be used; .*in quotes")(
    _changed(classes=["road", "car", False])
)
case("an ignore value that is a class", r"set\.yaml: the key 'ignore_value' cannot be used; it must be outside the 3")(
    _changed(ignore_value=0)
)
case("a part of a later part", r"set\.yaml: the key 'parts\.labeled\.of' names the split 'late', which is not defined")(
    lambda tree: tree.content["parts"].update(labeled={"of": "late", "fraction": 0.5}, late={"list": "train.txt"})
)
case("a fraction in per cent", r"set\.yaml: the key 'parts\.labeled\.fraction' cannot be used; it must be a number ")(
    _part(labeled={"of": "train", "fraction": 12.5})
)
case("a label map to an unknown class", r"set\.yaml: the key 'label_map' cannot be used; .*'clas1', which is no class")(
    _changed(label_map={0: "class0", 255: "clas1"})
)
case("YAML that is none", r"data/set\.yaml: this is not valid YAML near line 2 \(.*\); inside \[\.\.\.\] put a")(
    lambda tree: tree.config.update({"DATASETS.DEFINITIONS": (tree.write("set.yaml", "name: a\nroot: [${HOME}/a, b"),)})
)
case("no YAML file", r"DATASETS\.DEFINITIONS names gone\.yaml, which is not a file \(absolute: .*/gone\.yaml\);")(
    _configured(DATASETS__DEFINITIONS=("gone.yaml",))
)
case("another number of classes", r"MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 21, but 'small\d+_labeled' in DATASETS\.TRAIN")(
    _configured(MODEL__SEM_SEG_HEAD__NUM_CLASSES=21)
)
case("another ignore value", r"MODEL\.SEM_SEG_HEAD\.IGNORE_VALUE is 255, but 'small\d+_labeled' in DATASETS\.TRAIN")(
    _changed(ignore_value=254)
)
case("no unlabelled data", r"DATASETS\.UNLABELED = \(\) holds no image; name a part .* RegionSegmentor")(
    _configured(DATASETS__UNLABELED=())
)


def sentence(spoil: Spoil, folder: Path) -> str:
    """What a user is told of a tree below ``folder`` that ``spoil`` has spoilt."""
    tree = Tree(folder)
    spoil(tree)
    with pytest.raises(InputError) as caught:
        check_training_data(load_config(CONFIG, tree.options()))
    return str(caught.value)


def test_the_tree_is_good_before(tmp_path):
    check_training_data(load_config(CONFIG, Tree(tmp_path).options()))


@pytest.mark.parametrize("name", CASES)
def test_bad_tree(tmp_path, name):
    spoil, expected = CASES[name]
    message = sentence(spoil, tmp_path)
    assert re.search(expected, message), message
    # One sentence on one line, which names what is meant and says what to do.
    assert "\n" not in message and message.endswith(".") and "Traceback" not in message
    assert re.search(r"; |\. |did you mean", message), message


@pytest.mark.parametrize("name", COMMAND_LINE)
def test_bad_tree_through_the_command_line(command_line, tmp_path, name):
    spoil, expected = CASES[name]
    tree = Tree(tmp_path)
    spoil(tree)
    assert_told(command_line("--config-file", CONFIG, *TINY, *tree.options()), expected)


def assert_told(result: subprocess.CompletedProcess, expected: str) -> None:
    assert result.returncode == 2, result.stderr
    # But for what torch may log of itself.
    lines = [line for line in result.stderr.strip().splitlines() if not re.match(r"W\d+ .*torch/", line)]
    assert len(lines) == 1 and lines[0].startswith("train_net.py: "), result.stderr
    assert re.search(expected, lines[0]), lines[0]


def print_table() -> None:
    print("| tree | what is said (paths shortened) |\n|---|---|")
    for name, (spoil, _) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            message = sentence(spoil, Path(folder))
        message = re.sub(r"(?<![\w.])/[^\s,;:)']*/([^\s,;:)'/]+)", r"\1", message)
        message = re.sub(r"small\d+", "small", message)
        print(f"| {name} | {message.replace('|', chr(92) + '|')} |")


if __name__ == "__main__":
    sys.exit(print_table())

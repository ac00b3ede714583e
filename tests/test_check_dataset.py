"""tools/check_dataset.py: its output and its exit status."""

import numpy as np
import pytest
from conftest import call_command, start_script
from data_files import SMALL_SIZE, SmallTree, write_label

from rc2l_d2.commands import check

CONFIG = ("--config-file", "configs/toy/rc2l_R18.yaml")


@pytest.fixture
def tree(tmp_path):
    return SmallTree(tmp_path)


@pytest.fixture
def run(tree, monkeypatch):
    def call(*arguments):
        options = tree.options()
        given = (*arguments, *options) if arguments[:2] == CONFIG else arguments
        result = call_command(monkeypatch, "check_dataset.py", check.main, *given)
        return result.returncode, result.stdout, result.stderr

    return call


def _fill(tree, names, value):
    for name in names:
        write_label(tree.folder / f"labels/{name}.png", np.full(SMALL_SIZE, value, np.uint8))


def test_good_configuration(tree):
    result = start_script("tools/check_dataset.py", *CONFIG, *tree.options())
    output = result.stdout
    assert result.returncode == 0 and output.endswith("Problems: 0, warnings: 0.\n"), result.stderr
    assert "At most 200 images of each split are read, sampled with seed 1" in output
    assert "_labeled): 4 images with labels, all read in" in output and "s; all 48x40 pixels" in output
    assert "_unlabeled): 6 images without labels, all read" in output
    # class, images with it, fraction of its pixels: random labels, a third each
    rows = [line.split() for line in output.splitlines() if line.startswith("class0")]
    assert len(rows) == 2 and rows[0][1] == "4" and abs(float(rows[0][2]) - 33.3) < 2


def test_everything_wrong_at_once(run, tree):
    _fill(tree, ["train_002"], 7)
    _fill(tree, ["train_004"], 1)
    _fill(tree, ["train_006"], 2)
    _fill(tree, ["train_009"], 255)
    (tree.folder / "images/train_000.png").write_text("no image")
    status, output, errors = run(*CONFIG, "--full", "--workers", "2")
    assert status == 2 and "At most" not in output
    assert "PROBLEM: DATASETS.TRAIN" in output and f"    {tree.folder}/labels/train_002.png (7)\n" in output
    assert "warning: DATASETS.TRAIN" in output and f"    {tree.folder}/labels/train_009.png\n" in output
    assert "PROBLEM: DATASETS.UNLABELED" in output and f"    {tree.folder}/images/train_000.png (the image" in output
    assert "PROBLEM: No label of DATASETS.TRAIN (" in output and ") has these classes; label images" in output
    assert "    class0\n" in output and "0.000  ABSENT" in output
    assert output.endswith("Problems: 3, warnings: 2.\n")
    assert errors == "", "a progress bar where nobody watches"


def test_labels_of_one_class_are_one_problem(run, tree):
    _fill(tree, ["train_002", "train_004", "train_006", "train_009"], 1)
    status, output, _ = run(*CONFIG)
    assert status == 2 and output.endswith("Problems: 1, warnings: 1.\n")
    assert "PROBLEM: DATASETS.TRAIN" in output and "shows no class but 'class1' (4 labels read); add labels" in output


def test_shared_images_are_a_problem_and_the_rest_is_still_read(run, tree):
    tree.config["DATASETS.UNLABELED"] = tree.named("train")
    status, output, _ = run(*CONFIG)
    assert status == 2
    assert "PROBLEM: DATASETS.TRAIN and DATASETS.UNLABELED share 4 images; take them" in output
    assert "10 images without labels, all read" in output


def test_supervised_configuration_needs_no_unlabelled_images(run, tree):
    tree.config |= {"MODEL.META_ARCHITECTURE": "RegionSegmentor", "DATASETS.UNLABELED": ()}
    status, output, _ = run(*CONFIG)
    assert status == 0 and "UNLABELED" not in output


def test_splits_of_a_definition(run, tree):
    (tree.folder / "labels/train_000.png").unlink()
    status, output, _ = run("--definition", tree.yaml)
    assert status == 0 and output.endswith("Problems: 0, warnings: 2.\n")
    assert "split 'train': 10 images without labels" in output and "split 'val': 3 images with labels" in output
    assert "warning: split 'train' is checked without labels" in output
    _fill(tree, ["val_000"], 9)
    assert run("--definition", tree.yaml, "labeled")[0] == 0
    assert run("--definition", tree.yaml, "labeled", "val")[0] == 2


def test_mistakes_give_one_sentence(run, tree, tmp_path):
    for arguments, fragment in (
        (("--definition", tree.yaml, "vla"), "there is no split 'vla'; the splits are train, val"),
        (("--definition", tmp_path / "none.yaml"), "none.yaml"),
        (("--config-file", tmp_path / "none.yaml"), "none.yaml"),
        (("--definition", tree.yaml, "--workers", "0"), "--workers is 0"),
    ):
        status, output, errors = run(*arguments)
        assert status == 2 and output == "" and errors.count("\n") == 1
        assert errors.startswith("check_dataset.py: ") and fragment in errors
    assert run()[0] == 2

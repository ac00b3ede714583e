"""rc2l-check: its output and its exit status."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, call_command
from data_files import SmallTree, write_label

from rc2l_d2.commands import check


@pytest.fixture
def tree(tmp_path):
    return SmallTree(tmp_path)


@pytest.fixture
def run(monkeypatch, tree):
    """Check the configuration of the tree, or with ``--definition`` its YAML file."""

    def call(*arguments):
        options = tree.options()
        if arguments[:1] == ("--definition",):
            arguments = ("--definition", tree.yaml, *arguments[1:])
        else:
            arguments = ("--config-file", "configs/toy/rc2l_R18.yaml", *arguments, *options)
        return call_command(monkeypatch, "check_dataset.py", check.main, *arguments)

    return call


def _fill(tree, names, value):
    for name in names:
        write_label(tree.folder / f"labels/{name}.png", np.full((40, 48), value, np.uint8))


def test_good_configuration(run):
    result = run()
    assert result.returncode == 0 and result.stdout.endswith("Problems: 0, warnings: 0.\n")
    assert "At most 200 images of each split are read, sampled with seed 1" in result.stdout
    assert "_labeled): 4 images with labels, all read in" in result.stdout and "s; all 48x40 pixels" in result.stdout
    assert "_unlabeled): 6 images without labels, all read" in result.stdout
    # class, images with it, percentage of its pixels: random labels, a third each
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("class0")]
    assert len(rows) == 2 and rows[0][1] == "4" and abs(float(rows[0][2]) - 33.3) < 2


def test_everything_wrong_at_once(run, tree):
    for name, value in (("train_002", 7), ("train_004", 1), ("train_006", 2), ("train_009", 255)):
        _fill(tree, [name], value)
    image = tree.write("images/train_000.png", "no image")
    result = run("--full", "--workers", "2", "SEED", "3")
    output, labels = result.stdout, f"{tree.folder}/labels"
    assert result.returncode == 2 and "At most" not in output
    assert "PROBLEM: DATASETS.TRAIN" in output and f"    {labels}/train_002.png (7)\n" in output
    assert "warning: DATASETS.TRAIN" in output and f"    {labels}/train_009.png\n" in output
    assert "PROBLEM: DATASETS.UNLABELED" in output and f"    {image} (the image" in output
    assert "PROBLEM: No label of DATASETS.TRAIN (" in output and ") has these classes; label images" in output
    assert "    class0\n" in output and "0.000  ABSENT" in output
    assert output.endswith("Problems: 3, warnings: 2.\n")
    assert result.stderr == "", "no progress bar outside a terminal"


def test_labels_of_one_class_are_one_problem(run, tree):
    _fill(tree, ["train_002", "train_004", "train_006", "train_009"], 1)
    result = run()
    assert result.returncode == 2 and result.stdout.endswith("Problems: 1, warnings: 1.\n")
    assert "PROBLEM: DATASETS.TRAIN" in result.stdout
    assert "shows no class but 'class1' (4 labels read); add labels" in result.stdout


def test_shared_images_are_a_problem_and_the_rest_is_still_read(run, tree):
    tree.config["DATASETS.UNLABELED"] = tree.named("train")
    result = run()
    assert result.returncode == 2
    assert "PROBLEM: DATASETS.TRAIN and DATASETS.UNLABELED share 4 images; take them" in result.stdout
    assert "10 images without labels, all read" in result.stdout


def test_supervised_configuration_needs_no_unlabelled_images(run, tree):
    tree.config |= {"MODEL.META_ARCHITECTURE": "RegionSegmentor", "DATASETS.UNLABELED": ()}
    result = run()
    assert result.returncode == 0 and "UNLABELED" not in result.stdout


def test_parts_of_a_definition(run, tree):
    (tree.folder / "labels/train_000.png").unlink()
    result = run("--definition")
    assert result.returncode == 0 and result.stdout.endswith("Problems: 0, warnings: 2.\n")
    assert "split 'train': 10 images without labels" in result.stdout
    assert "split 'val': 3 images with labels" in result.stdout
    assert "warning: split 'train' is checked without labels" in result.stdout
    _fill(tree, ["val_000"], 9)
    assert run("--definition", "labeled").returncode == 0
    assert run("--definition", "labeled", "val").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--definition", "vla"), "there is no split 'vla'; the splits are train, val"),
        (("DATASETS.DEFINITIONS", "('none.yaml',)"), "none.yaml"),
    ],
)
def test_mistakes_are_one_sentence(run, tree, arguments, fragment):
    del tree.config["DATASETS.DEFINITIONS"]
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("check_dataset.py: ") and fragment in result.stderr
    assert run("--workers", "0").returncode == 2


@pytest.mark.slow
def test_as_a_command(tree):
    tree.options()
    command = [sys.executable, str(REPO / "tools/check_dataset.py"), "--definition", str(tree.yaml), "--full"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Problems: 0" in result.stdout

"""tools/check_dataset.py: what it prints and its exit status."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import REPO
from data_files import write_dataset, write_definition, write_label

_spec = importlib.util.spec_from_file_location("check_dataset", REPO / "tools/check_dataset.py")
check_dataset = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_dataset)

SIZE = (40, 48)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def definition(tmp_path, folder):
    return write_definition(tmp_path / "set.yaml", write_dataset(folder, size=SIZE))


@pytest.fixture
def config(tmp_path, definition):
    name = yaml.safe_load(definition.read_text())["name"]
    content = {
        "MODEL": {"META_ARCHITECTURE": "RC2L", "SEM_SEG_HEAD": {"NUM_CLASSES": 3, "IGNORE_VALUE": 255}},
        "DATASETS": {
            "DEFINITIONS": (str(definition),),
            "TRAIN": (f"{name}_labeled",),
            "UNLABELED": (f"{name}_unlabeled",),
            "TEST": (f"{name}_val",),
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump({**content, "DATASETS": {k: list(v) for k, v in content["DATASETS"].items()}}))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
        status = check_dataset.main()
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


def _fill(folder, names, value):
    for name in names:
        write_label(folder / f"labels/{name}.png", np.full(SIZE, value, np.uint8))


def test_good_configuration(run, config):
    status, output, _ = run("--config-file", config)
    assert status == 0 and output.endswith("Problems: 0, warnings: 0.\n")
    assert "At most 200 images of each split are read, sampled with seed 0" in output
    assert "_labeled): 4 images with labels, all read in" in output and "s; all 48x40 pixels" in output
    assert "_unlabeled): 6 images without labels, all read" in output
    # class, images with it, share of its pixels: random labels, a third each
    rows = [line.split() for line in output.splitlines() if line.startswith("class0")]
    assert len(rows) == 2 and rows[0][1] == "4" and abs(float(rows[0][2]) - 33.3) < 2


def test_everything_wrong_at_once(run, config, folder):
    _fill(folder, ["train_002"], 7)
    _fill(folder, ["train_004"], 1)
    _fill(folder, ["train_006"], 2)
    _fill(folder, ["train_009"], 255)
    (folder / "images/train_000.png").write_text("no picture")
    status, output, errors = run("--config-file", config, "--full", "--workers", "2", "SEED", "3")
    assert status == 2 and "At most" not in output
    assert "PROBLEM: DATASETS.TRAIN" in output and f"    {folder}/labels/train_002.png (7)\n" in output
    assert "warning: DATASETS.TRAIN" in output and f"    {folder}/labels/train_009.png\n" in output
    assert "PROBLEM: DATASETS.UNLABELED" in output and f"    {folder}/images/train_000.png (the image" in output
    assert "PROBLEM: No label of DATASETS.TRAIN (" in output and ") has these classes; label images" in output
    assert "    class0\n" in output and "0.000  ABSENT" in output
    assert output.endswith("Problems: 3, warnings: 2.\n")
    assert errors == "", "a progress bar where nobody watches"


def test_labels_of_one_class_are_one_problem(run, config, folder):
    _fill(folder, ["train_002", "train_004", "train_006", "train_009"], 1)
    status, output, _ = run("--config-file", config)
    assert status == 2 and output.endswith("Problems: 1, warnings: 1.\n")
    assert "PROBLEM: DATASETS.TRAIN" in output and "shows no class but 'class1' (4 labels read); add labels" in output


def test_shared_images_are_a_problem_and_the_rest_is_still_read(run, config):
    name = yaml.safe_load(config.read_text())["DATASETS"]["TRAIN"][0].removesuffix("_labeled")
    status, output, _ = run("--config-file", config, "DATASETS.UNLABELED", f"('{name}_train',)")
    assert status == 2
    assert "PROBLEM: DATASETS.TRAIN and DATASETS.UNLABELED share 4 images; take them" in output
    assert "10 images without labels, all read" in output


def test_supervised_configuration_needs_no_unlabelled_images(run, config):
    overrides = ("MODEL.META_ARCHITECTURE", "RegionSegmentor", "DATASETS.UNLABELED", "()")
    status, output, _ = run("--config-file", config, *overrides)
    assert status == 0 and "UNLABELED" not in output


def test_parts_of_a_definition(run, definition, folder):
    (folder / "labels/train_000.png").unlink()
    status, output, _ = run("--definition", definition)
    assert status == 0 and output.endswith("Problems: 0, warnings: 2.\n")
    assert "split 'train': 10 images without labels" in output and "split 'val': 3 images with labels" in output
    assert "warning: split 'train' is checked without labels" in output
    _fill(folder, ["val_000"], 9)
    assert run("--definition", definition, "labeled")[0] == 0
    assert run("--definition", definition, "labeled", "val")[0] == 2


def test_mistakes_are_told_in_one_sentence(run, definition, tmp_path):
    for arguments, fragment in (
        (("--definition", definition, "vla"), "there is no split 'vla'; the splits are train, val"),
        (("--definition", tmp_path / "none.yaml"), "none.yaml"),
        (("--config-file", tmp_path / "none.yaml"), "none.yaml"),
        (("--definition", definition, "--workers", "0"), "--workers is 0"),
    ):
        status, output, errors = run(*arguments)
        assert status == 2 and output == "" and errors.count("\n") == 1
        assert errors.startswith("check_dataset.py: ") and fragment in errors
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2


def test_as_a_command(config):
    command = [sys.executable, str(REPO / "tools/check_dataset.py"), "--config-file", str(config), "--full"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Problems: 0" in result.stdout

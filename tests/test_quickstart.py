"""rc2l-quickstart: what it writes for folders of every form is what training reads; what cannot work is told."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import torch
import yaml
from conftest import REPO
from data_files import write_image, write_label
from PIL import Image

from rc2l_d2.commands import quickstart
from rc2l_d2.data import load_dataset, load_definition, read_label
from rc2l_d2.engine import load_config

_spec = importlib.util.spec_from_file_location("check_dataset", REPO / "tools/check_dataset.py")
check_dataset = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_dataset)

SIZE = (48, 64)
CLASSES = ["road", "car", "person"]
COLORS = np.array([[128, 64, 128], [0, 0, 142], [220, 20, 60]], np.uint8)
_NUMBERS = count()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with ten photographs in "photos" and six in "more"; "masks" is for the labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in [f"photos/{index} a.jpg" for index in range(10)] + [f"more/{index}.jpg" for index in range(6)]:
        write_image(tmp_path / name, rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    return tmp_path


@pytest.fixture
def output():
    """A folder's name that no other test has, as data sets are called by it and stay registered."""
    number = next(_NUMBERS)
    return f"own {number}/quick-{number}"


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = quickstart.main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


@pytest.fixture
def check(monkeypatch, capsys):
    """tools/check_dataset.py on the configuration in a folder: its exit status and what it says in the end."""

    def call(folder):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", "--config-file", f"{folder}/train.yaml", "--full",
                                          "--workers", "1"])  # fmt: skip
        status = check_dataset.main()
        return status, capsys.readouterr().out.splitlines()[-1]

    return call


def indices(index: int, values: int = 3) -> np.ndarray:
    """The class indices of the label of image ``index``: two classes in each, the last in four of ten."""
    label = np.zeros(SIZE, np.uint8)
    label[:, 20:] = 1 if index % 3 or values == 2 else 2
    return label


def write_masks(folder, form: str) -> None:
    for index in range(10):
        label, path = indices(index, 2 if form == "mask" else 3), folder / f"masks/{index} a.png"
        border = np.zeros(SIZE, bool)
        border[:, 20] = form in ("palette", "grey", "colours with borders")
        if form.startswith("colours"):
            write_label(path, np.where(border[..., None], np.uint8([224, 224, 192]), COLORS[label]))
        elif form == "mask":
            write_label(path, label * 255)
        else:
            write_label(path, np.where(border, np.uint8(255), label))
            if form == "palette":
                picture = Image.open(path)
                picture.putpalette(COLORS.ravel().tolist() + [0] * 759)
                picture.save(path)


@pytest.mark.parametrize("form", ["palette", "grey", "colours", "colours with borders", "mask"])
def test_what_is_written_is_what_training_reads(folder, output, run, check, form):
    write_masks(folder, form)
    # Colours are named in the order of 0xrrggbb.
    names = {"colours": "car,road,person", "colours with borders": "car,road,person", "mask": "back,front"}
    name = names.get(form, "road,car,person")
    status, shown, errors = run("photos", "masks", "more", "--output", output, "--classes", name)
    assert status == 0 and errors == "" and "8 labelled images to train on, 2 held out, 6 unlabelled." in shown
    assert check(output) == (0, "Problems: 0, warnings: 0.")

    cfg = load_config(f"{output}/train.yaml")
    classes = name.split(",")
    definition = load_definition(f"{output}/dataset.yaml")
    assert definition.classes == tuple(classes) and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == len(classes)
    if form in ("palette", "colours", "colours with borders"):
        assert definition.palette == tuple(tuple(COLORS[CLASSES.index(name)].tolist()) for name in classes)
    files, seen = [], set()
    for part in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        for entry in load_dataset(part[0], "all"):
            files.append(entry["file_name"])
            index = int(os.path.basename(entry["file_name"])[0])
            label, true = read_label(entry["sem_seg_file_name"], entry["label_map"]), indices(index, len(classes))
            wanted = np.array(range(2) if form == "mask" else [classes.index(name) for name in CLASSES])[true]
            bordered = form in ("palette", "grey", "colours with borders")
            assert (label[:, 20] == 255).all() == bordered and (label[:, 21:] == wanted[:, 21:]).all()
            assert (label[:, :20] == wanted[:, :20]).all()
            seen.add(index)
    assert seen == set(range(10))
    files += [entry["file_name"] for entry in load_dataset(cfg.DATASETS.UNLABELED[0], "none")]
    assert len(files) == len(set(files)) == 16


def test_the_others_of_one_folder_are_the_unlabelled_and_notes_say_what_is_scarce(folder, output, run, check):
    write_masks(folder, "grey")
    for index in (0, 3):
        os.remove(folder / f"masks/{index} a.png")
    write_label(folder / "masks/9 a.png", np.full(SIZE, 255, np.uint8))
    write_label(folder / "masks/none.png", np.zeros(SIZE, np.uint8))
    arguments = ("photos", "masks", "--output", output, "--classes", "road,car,person,bus", "--held-out", 0.3)
    status, shown, _ = run(*arguments)
    assert status == 0 and "5 labelled images to train on, 2 held out, 2 unlabelled." in shown
    for note in (
        "1 label (none.png) without an image.",
        "Left out, as labels without a class on any pixel: 1.",
        "No label has bus: left out of the classes.",
        # It is in image 6 alone, from which it is to be learned.
        "No held-out image has person, which is thus not measured.",
        "Fewer than 5 labels have person: more of these would help most.",
        "Few images (2) are held out, so what is measured is rough",
    ):
        assert f"Note: {note}" in shown
    assert "photos/6 a.jpg\tmasks/6 a.png" in (folder / output / "labeled.txt").read_text()
    assert check(output)[0] == 0


def test_nothing_is_overwritten_without_being_told(folder, output, run):
    write_masks(folder, "mask")
    arguments = ("photos", "masks", "more", "--output", output)
    assert run(*arguments, "--seed", 1)[0] == 0
    before = {path.name: path.read_text() for path in (folder / output).iterdir()}
    assert set(before) == {"dataset.yaml", "train.yaml", "labeled.txt", "val.txt", "unlabeled.txt"}
    status, shown, errors = run(*arguments, "--seed", 2)
    assert status == 2 and shown == "" and "dataset.yaml is there already; name another --output" in errors
    assert {path.name: path.read_text() for path in (folder / output).iterdir()} == before
    assert run(*arguments, "--seed", 2, "--overwrite")[0] == 0
    assert (folder / output / "val.txt").read_text() != before["val.txt"]


def test_pictures_elsewhere_and_sizes_that_are_asked_for(folder, output, run, check, tmp_path_factory, monkeypatch):
    write_masks(folder, "mask")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    options = ("--output", output, "--iterations", 50, "--short-edge", 32, "--device", "cuda", "--seed", 3)
    status, shown, _ = run(folder / "photos", folder / "masks", folder / "more", *options)
    assert status == 0 and "was not measured" in shown
    assert check(output) == (0, "Problems: 0, warnings: 0.")
    cfg = load_config(f"{output}/train.yaml")
    assert cfg.SOLVER.MAX_ITER == 50 and cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS == cfg.TEST.EVAL_PERIOD == 10
    assert cfg.INPUT.MIN_SIZE_TEST == 32 and tuple(cfg.INPUT.CROP.SIZE) == (32, 32) and cfg.SEED == 3
    assert cfg.MODEL.RESNETS.DEPTH == 50 and cfg.OUTPUT_DIR == f"{output}/run"


def test_weights_set_the_depth(folder, output, run):
    write_masks(folder, "mask")
    for name, blocks in (("R-34.pth", (3, 4, 6, 3)), ("other.pth", (1, 1, 1, 1))):
        names = [f"res{stage}.{block}.conv1.weight" for stage, n in enumerate(blocks, start=2) for block in range(n)]
        torch.save({"model": {name: torch.zeros(1) for name in names}}, folder / name)
    arguments = ("photos", "masks", "more", "--output", output, "--weights")
    status, shown, _ = run(*arguments, "R-34.pth")
    assert status == 0 and "was not measured" in shown
    cfg = load_config(f"{output}/train.yaml")
    assert cfg.MODEL.WEIGHTS == "R-34.pth" and cfg.MODEL.RESNETS.DEPTH == 34
    for file, message in (("other.pth", "other.pth does not hold a ResNet of 18"), ("none.pth", "is not a file")):
        status, _, errors = run(*arguments, file, "--overwrite")
        assert status == 2 and message in errors


def _jpeg_label(folder):
    os.remove(folder / "masks/3 a.png")
    Image.fromarray(indices(3)).save(folder / "masks/3 a.jpg")


def _small_label(folder):
    write_label(folder / "masks/3 a.png", indices(3)[:20])


def _broken_image(folder):
    (folder / "photos/3 a.jpg").write_bytes(b"")


def _one_class(folder):
    for index in range(10):
        write_label(folder / f"masks/{index} a.png", np.zeros(SIZE, np.uint8))


def _alone(folder):
    for index in range(10):
        write_label(folder / f"masks/{index} a.png", np.full(SIZE, index, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (_jpeg_label, (), "masks/3 a.jpg: the label file is a JPEG, which changes values; save labels as PNG."),
        (_small_label, (), "photos with masks has labels of another size than their images (1 of 10 read): "),
        (_broken_image, (), "photos with masks has images that cannot be read (1 of 10 read): "),
        (_one_class, (), "The labels in masks hold one value only (0); a model needs two classes at least"),
        (_alone, (), "None of the 10 labelled images can be held out to measure by, as each is the only one with some"),
        (None, ("--classes", "a,b"), "--classes has 2 names, but the labels in masks hold 3 values (0, 1, 2); name"),
        (None, ("--held-out", 1), "--held-out is 1.0; give a number above 0 and below 1."),
        (None, ("--iterations", 9), "--iterations is 9; give 10 or more."),
        (None, ("--short-edge", 8), "--short-edge is 8; give 32 or more pixels."),
        (None, ("--seed", -1), "--seed is -1; give a whole number from 0 to 4294967295."),
        (None, ("--output", "photos/0 a.jpg"), "--output photos/0 a.jpg cannot be written (File exists); name"),
        (None, ("--output", "toy/voc2012"), "A data set is called voc2012_val already; name another --output"),
    ],
)
def test_what_cannot_work_is_told_and_nothing_is_written(folder, output, run, spoil, options, message):
    write_masks(folder, "grey")
    if spoil:
        spoil(folder)
    status, shown, errors = run("photos", "masks", "more", "--output", output, *options)
    assert status == 2 and shown == "" and errors.startswith("quickstart: ")
    assert message in errors and errors.count("\n") == 1 and errors.endswith(".\n")
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "more", "photos"]


def test_as_a_command(folder):
    def command(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
        call = [sys.executable, "-m", "rc2l_d2.commands.quickstart", *arguments]
        return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120)

    result = command("photos", "masks", "more")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "quickstart: LABELS is masks, which is not a folder; correct it.\n"
    write_masks(folder, "grey")
    result = command("photos", "masks", "more")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    # What is to be typed next, as here is no checkout.
    commands = [line.split() for line in result.stdout.split("Next:\n")[1].splitlines()]
    assert [words[0] for words in commands] == ["check", "train", "look", "predict"]
    assert commands[0][1:] == ["rc2l-check", "--config-file", "quickstart/train.yaml", "--full"]
    assert [words[1] for words in commands] == ["rc2l-check", "rc2l-train", "tail", "rc2l-predict"]
    assert yaml.safe_load((folder / "quickstart/train.yaml").read_text())["DATASETS"]["TRAIN"] == ["quickstart_labeled"]

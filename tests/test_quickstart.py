"""rc2l-quickstart: training reads what it writes, for labels of every form; mistakes give one sentence."""

import os
import re

import numpy as np
import pytest
import torch
import yaml
from conftest import call_command
from data_files import write_image, write_label
from PIL import Image
from timm_import import timm

from rc2l_d2.commands import check, quickstart
from rc2l_d2.data import LabelFiles, load_dataset, load_definition, read_label
from rc2l_d2.engine import RC2LTrainer, load_config, load_model_file, starting_point
from rc2l_d2.engine.model_file import write_model_file
from rc2l_d2.engine.starting_point import PACKAGED_BACKBONE, Pretrained, use_channels
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_backbone, build_model

SIZE = (48, 64)
CLASSES = ["road", "car", "person"]
COLORS = np.array([[128, 64, 128], [0, 0, 142], [220, 20, 60]], np.uint8)
THREE = ("photos", "masks", "more")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with ten images in "photos" and six in "more"; "masks" is for the labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in [f"photos/{index} a.jpg" for index in range(10)] + [f"more/{index}.jpg" for index in range(6)]:
        write_image(tmp_path / name, rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    return tmp_path


@pytest.fixture
def output(tmp_path):
    """An output folder, of another name in each test: it names data sets that stay registered."""
    return f"own set/{tmp_path.name}-1"


@pytest.fixture
def run(monkeypatch):
    return lambda *arguments: call_command(monkeypatch, "rc2l-quickstart", quickstart.main, *arguments, folder=".")


@pytest.fixture
def problems(monkeypatch):
    """Call rc2l-check on the configuration in a folder; returns its last line."""

    def call(folder):
        options = ("--config-file", f"{folder}/train.yaml", "--full", "--workers", "1")
        return call_command(monkeypatch, "rc2l-check", check.main, *options, folder=".").stdout.splitlines()[-1]

    return call


def indices(index: int, values: int = 3) -> np.ndarray:
    """Return the class indices of image ``index``: two classes in each, the last class in four of ten."""
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
                image = Image.open(path)
                image.putpalette(COLORS.ravel().tolist() + [0] * 759)
                image.save(path)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("palette", "road,car,person"),
        ("grey", "road,car,person"),
        ("colours", "road,car,person"),
        ("colours with borders", "road,car,person"),
        ("mask", "back,front"),
    ],
)
def test_training_reads_what_is_written(folder, output, run, problems, form, names):
    write_masks(folder, form)
    given, ignore = names, "255"
    if form.startswith("colours"):
        given, ignore = "#804080=road,#00008e=car,#dc143c=person", "#e0e0c0"
    options = () if form in ("mask", "colours") else ("--ignore", ignore)
    result = run(*THREE, "--output", output, "--classes", given, *options)
    assert result.returncode == 0 and result.stderr == ""
    assert "8 labelled images to train on, 2 held out, 6 unlabelled." in result.stdout
    assert problems(output) == "Problems: 0, warnings: 0."

    cfg = load_config(f"{output}/train.yaml")
    classes = names.split(",")
    definition = load_definition(f"{output}/dataset.yaml")
    assert definition.classes == tuple(classes) and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == len(classes)
    if form not in ("grey", "mask"):
        assert definition.palette == tuple(tuple(COLORS[CLASSES.index(name)].tolist()) for name in classes)
    order = np.array([0, 1] if form == "mask" else [classes.index(name) for name in CLASSES])
    labelled = [entry for name in (cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]) for entry in load_dataset(name, "all")]
    for entry in labelled:
        index = int(os.path.basename(entry["file_name"])[0])
        expected = order[indices(index, len(classes))]
        if form in ("palette", "grey", "colours with borders"):
            expected[:, 20] = 255
        assert (read_label(entry["sem_seg_file_name"], entry["label_map"]) == expected).all()
    files = [entry["file_name"] for entry in [*labelled, *load_dataset(cfg.DATASETS.UNLABELED[0], "none")]]
    assert len(labelled) == 10 and len(set(files)) == 16


def test_images_and_labels_with_endings_in_one_folder(folder, output, run, problems):
    write_masks(folder, "grey")
    os.makedirs("pairs")
    for source, ending in (("photos", "_sat"), ("masks", "_mask")):
        for file in (folder / source).iterdir():
            file.rename(folder / "pairs" / f"{file.stem}{ending}{file.suffix}")
    (suffix,) = {file.suffix for file in (folder / "pairs").glob("*_sat.*")}
    endings = ("--image-suffix", f"_sat{suffix}", "--label-suffix", "_mask.png")
    result = run("pairs", "pairs", "more", "--output", output, "--ignore", 255, *endings)
    assert result.returncode == 0 and "8 labelled images to train on, 2 held out, 6 unlabelled." in result.stdout
    assert problems(output) == "Problems: 0, warnings: 0."
    rules = LabelFiles.of(load_definition(f"{output}/dataset.yaml"))  # as a model file keeps them for --compare
    assert rules.find(folder / "pairs", folder / f"pairs/3 a_sat{suffix}")[0].name == "3 a_mask.png"


def test_two_folders_and_notes_on_what_is_scarce(folder, output, run, problems):
    write_masks(folder, "grey")
    for index in (0, 3):
        os.remove(folder / f"masks/{index} a.png")
    write_label(folder / "masks/9 a.png", np.full(SIZE, 255, np.uint8))
    write_label(folder / "masks/none.png", np.zeros(SIZE, np.uint8))
    classes = "0=road,1=unlabeled area,2=person,3=bus"
    options = ("--output", output, "--classes", classes, "--held-out", 0.3, "--ignore", 255)
    result = run("photos", "masks", *options)
    assert result.returncode == 0
    assert "5 labelled images to train on, 2 held out, 2 unlabelled." in result.stdout
    for note in (
        "Labels without an image: 1 (none.png).",
        "Labels not used, as no pixel has a class: 1.",
        "Learned as classes, but by their names they may be none: unlabeled area; if so, give --ignore.",
        "Classes not used, as no label has them: bus.",
        # Only image 6 has it, and stays in the training split.
        "Classes in no held-out image, without a metric: person.",
        "Classes in fewer than 5 labels, where more labels would help most: person.",
        "Only 2 held-out images: metrics will be rough; raise --held-out.",
    ):
        assert f"Note: {note}" in result.stdout
    assert "photos/6 a.jpg\tmasks/6 a.png" in (folder / output / "labeled.txt").read_text()
    assert problems(output).startswith("Problems: 0")


def test_images_beside_most_labelled_ones_are_used_without_others_and_noted(folder, output, run):
    write_masks(folder, "grey")
    for path in sorted((folder / "photos").iterdir()):
        path.with_name(f"{path.stem}_right.jpg").write_bytes((folder / "more/0.jpg").read_bytes())
    result = run("photos", "masks", "--output", output, "--ignore", 255, "--classes", "road,car,person")
    assert result.returncode == 0 and "10 unlabelled." in result.stdout, result.stderr
    assert "Note: Used as unlabelled images, though most labelled images have a file with such an ending: 10 (0 a_" in (
        result.stdout
    )


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_class_that_geotiffs_mark_as_no_data_is_noted(folder, output, run):
    rasterio = pytest.importorskip("rasterio")
    write_masks(folder, "grey")
    os.remove(folder / "masks/0 a.png")
    for path in sorted((folder / "masks").iterdir()):
        with rasterio.open(path) as file:
            values = file.read(1)
        profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": "uint8", "nodata": 0}
        with rasterio.open(path.with_suffix(".tif"), "w", **profile) as file:
            file.write(values, 1)
        path.unlink()
    result = run("photos", "masks", "--output", output, "--ignore", 255, "--classes", "road,car,person")
    assert result.returncode == 0, result.stderr
    assert re.search(r"Note: \d+ labels mark 0 as no data, but it is the class road; give --ignore 0 if", result.stdout)


def test_copies_of_held_out_images_are_noted(folder, output, run, problems):
    write_masks(folder, "mask")
    for index in range(10):
        Image.open(folder / f"photos/{index} a.jpg").save(folder / f"more/c{index}.png")
    result = run(*THREE, "--output", output)
    assert result.returncode == 0 and "Note: more has 2 images that are copies of held-out ones" in result.stdout
    held_out = (folder / output / "val.txt").read_text().split()[0]
    assert f"more/c{held_out[-1]}.png (copy of {folder / held_out} a.jpg)" in result.stdout
    assert problems(output) == "Problems: 1, warnings: 0."


def test_files_are_replaced_with_overwrite_only(folder, output, run):
    write_masks(folder, "mask")
    arguments = (*THREE, "--output", output)
    assert run(*arguments, "--seed", 1).returncode == 0
    before = {path.name: path.read_text() for path in (folder / output).iterdir()}
    assert set(before) == {"dataset.yaml", "train.yaml", "labeled.txt", "val.txt", "unlabeled.txt"}
    result = run(*arguments, "--seed", 2)
    assert result.returncode == 2 and "dataset.yaml is there already; name another --output" in result.stderr
    assert {path.name: path.read_text() for path in (folder / output).iterdir()} == before
    assert run(*arguments, "--seed", 2, "--overwrite").returncode == 0
    assert (folder / output / "val.txt").read_text() != before["val.txt"]


def test_options_and_images_elsewhere(folder, output, run, problems, tmp_path_factory, monkeypatch):
    write_masks(folder, "mask")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    options = ("--output", output, "--iterations", 50, "--short-edge", 32, "--device", "cuda", "--seed", 3)
    options += ("--backbone", "resnet")  # which weights are installed does not matter
    assert run(*(folder / name for name in THREE), *options).returncode == 0
    assert problems(output) == "Problems: 0, warnings: 0."
    cfg = load_config(f"{output}/train.yaml")
    assert cfg.SOLVER.MAX_ITER == 50 and cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS == cfg.TEST.EVAL_PERIOD == 10
    assert cfg.INPUT.MIN_SIZE_TEST == 32 and tuple(cfg.INPUT.CROP.SIZE) == (32, 32) and cfg.SEED == 3
    assert cfg.MODEL.RESNETS.DEPTH == 50 and cfg.OUTPUT_DIR == f"{output}/run"


def test_weights_set_the_depth(folder, output, run):
    write_masks(folder, "mask")
    for name, blocks in (("R-34.pth", (3, 4, 6, 3)), ("other.pth", (1, 1, 1, 1))):
        names = [f"res{stage}.{block}.conv1.weight" for stage, n in enumerate(blocks, start=2) for block in range(n)]
        torch.save({"model": {name: torch.zeros(1) for name in names}}, folder / name)
    arguments = (*THREE, "--output", output, "--overwrite", "--weights")
    assert run(*arguments, "R-34.pth").returncode == 0
    cfg = load_config(f"{output}/train.yaml")
    assert cfg.MODEL.WEIGHTS == "R-34.pth" and cfg.MODEL.RESNETS.DEPTH == 34
    for file, message in (("other.pth", "does not hold a ResNet of 18"), ("none.pth", "cannot be read")):
        result = run(*arguments, file)
        assert result.returncode == 2 and f"{file} {message}" in result.stderr


def test_a_backbone_of_timm_with_its_weights(folder, output, run):
    write_masks(folder, "mask")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    arguments = (*THREE, "--output", output, "--overwrite")
    for options, message in (
        (("--backbone", "test_resnot"), "near ones are test_resnet"),
        (("--backbone", "resnet18", "--weights", "weights.pth"), "weights.pth does not fit MODEL.TIMM.NAME 'resnet18'"),
    ):
        result = run(*arguments, *options)
        assert result.returncode == 2 and message in result.stderr
    assert run(*arguments, "--backbone", "test_resnet").returncode == 0
    assert "PRETRAINED: true" in (folder / output / "train.yaml").read_text()

    result = run(*arguments, "--backbone", "test_resnet", "--weights", "weights.pth")
    assert result.returncode == 0 and "random weights" not in result.stdout, result.stderr
    cfg = load_config(f"{output}/train.yaml")
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.CHECKPOINT) == ("test_resnet", "weights.pth")
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.PIXEL_STD == pytest.approx([127.5] * 3)
    assert f"short edge {min(cfg.INPUT.MIN_SIZE_TRAIN)} pixels (tested at {cfg.INPUT.MIN_SIZE_TEST})" in result.stdout
    assert list(build_backbone(cfg).output_shape()) == cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES


def test_a_model_is_learned_on_with_its_own_settings(folder, output, run):
    """One that comes with the package by its name, and the model file of an earlier run of quickstart."""
    write_masks(folder, "mask")
    arguments = (*THREE, "--iterations", 10, "--output")
    result = run(*arguments, output, "--weights", "msrc21")
    note = "Note: Training starts from msrc21; its weights of classes are used only for as many classes as it has."
    assert result.returncode == 0 and note in result.stdout
    cfg, model, known = load_config(f"{output}/train.yaml"), *load_model_file("msrc21")[:2]
    for part in ("BACKBONE", "TIMM", "SEM_SEG_HEAD", "MASK_FORMER"):
        differs = {key for key, value in cfg.MODEL[part].items() if value != known.MODEL[part][key]}
        assert differs == ({"NUM_CLASSES"} if part == "SEM_SEG_HEAD" else set()), part
    assert cfg.MODEL.PIXEL_MEAN == known.MODEL.PIXEL_MEAN and cfg.INPUT.FORMAT == known.INPUT.FORMAT
    assert cfg.INPUT.MIN_SIZE_TEST > cfg.INPUT.MIN_SIZE_TRAIN[0], "of a frozen backbone"
    trainer = RC2LTrainer(cfg)
    trainer.resume_or_load(resume=False)
    loaded, given = trainer.teacher.model.state_dict(), model.state_dict()
    of_classes = {name for name, value in given.items() if loaded[name].shape != value.shape}
    assert len(of_classes) < 10 and all(name.startswith("sem_seg_head.predictor.") for name in of_classes)
    learned = [name for name in given if name.startswith(("backbone.", "sem_seg_head.pixel_decoder."))]
    assert len(learned) > 300 and all(torch.equal(loaded[name], given[name]) for name in learned)

    assert run(*arguments, f"{output}-2", "--backbone", "resnet").returncode == 0
    changes = "MODEL.SEM_SEG_HEAD.CONVS_DIM 32 MODEL.SEM_SEG_HEAD.IGNORE_VALUE 200 MODEL.RESNETS.DEPTH 34"
    cfg = load_config(f"{output}-2/train.yaml", changes.split())
    write_model_file("earlier.pth", cfg, build_model(cfg), 1)
    assert run(*arguments, f"{output}-3", "--weights", "earlier.pth").returncode == 0
    again = load_config(f"{output}-3/train.yaml").MODEL
    assert (again.WEIGHTS, again.SEM_SEG_HEAD.CONVS_DIM, again.RESNETS) == ("earlier.pth", 32, cfg.MODEL.RESNETS)
    assert again.PIXEL_MEAN == cfg.MODEL.PIXEL_MEAN and again.BACKBONE == cfg.MODEL.BACKBONE
    assert again.SEM_SEG_HEAD.IGNORE_VALUE == 255, "as in dataset.yaml"

    per_pixel = load_config(f"{output}-2/train.yaml", ["MODEL.META_ARCHITECTURE", "PerPixelSegmentor"])
    write_model_file("per_pixel.pth", per_pixel, build_model(per_pixel), 1)
    for options, message in (
        (("--weights", "per_pixel.pth"), "per_pixel.pth is a model with a per-pixel head; give one that predicts"),
        (("--weights", "msrc"), "There is no file and no model 'msrc'; known models: camvid, msrc21."),
        (("--weights", "msrc21", "--backbone", "resnet"), "msrc21 is a whole model with its own backbone; leave"),
        (("--weights", "msrc21", "--backbone", "test_resnet"), "msrc21 is a whole model with its own backbone; leave"),
    ):
        result = run(*arguments, f"{output}-4", *options)
        assert result.returncode == 2 and message in result.stderr, result.stderr
    config = {"MODEL": {"PIXEL_MEAN": [0.5] * 4}}
    with pytest.raises(
        InputError, match="msrc21 is a model of images with 4 channels, and these have 3; choose as many"
    ):
        use_channels(config, 3, Pretrained("msrc21", model=known))


def test_pretrained_weights_that_are_installed_are_used(folder, output, run, monkeypatch):
    write_masks(folder, "mask")

    def quickstarted(*options):
        text = run(*THREE, "--output", output, "--overwrite", *options).stdout
        return text, yaml.safe_load((folder / output / "train.yaml").read_text())["MODEL"]

    text, model = quickstarted()
    assert "tf_efficientnet_lite0, frozen, with the ImageNet weights of efficientnet_lite0_py" in text
    assert (model["TIMM"]["NAME"], model["TIMM"]["CHECKPOINT"]) == PACKAGED_BACKBONE
    assert quickstarted("--backbone", "resnet")[1]["BACKBONE"]["NAME"] == "build_resnet_backbone"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(starting_point, "PACKAGED_BACKBONE", ("tf_efficientnet_lite0", "not_installed/weights.pth"))
    text, model = quickstarted()
    assert "starts from random weights" in text and model["BACKBONE"]["NAME"] == "build_resnet_backbone"

    # As huggingface_hub lays its cache out.
    cache = folder / "cache/models--timm--tf_efficientnet_lite0.in1k"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    (cache / "snapshots/abc").mkdir(parents=True)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), cache / "snapshots/abc/pytorch_model.bin")
    text, model = quickstarted()
    file = str(cache / "snapshots/abc/pytorch_model.bin")
    assert f"tf_efficientnet_lite0, frozen, with the ImageNet weights of {file}" in text
    assert (model["TIMM"]["NAME"], model["TIMM"]["CHECKPOINT"]) == ("tf_efficientnet_lite0", file)
    build_backbone(load_config(f"{output}/train.yaml"))


def small_label(folder):
    write_label(folder / "masks/3 a.png", indices(3)[:20])


def broken_image(folder):
    (folder / "photos/3 a.jpg").write_bytes(b"")


def ten_classes(folder):
    for index in range(10):
        write_label(folder / f"masks/{index} a.png", np.full(SIZE, index, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (small_label, (), "photos with masks has labels of another size than their images (1 of 10 read): "),
        (broken_image, (), "photos with masks has images that cannot be read (1 of 10 read): "),
        (
            ten_classes,
            ("--classes", "a,b,c,d,e,f,g,h,i,j"),
            "Each of the 10 labelled images is the only one of some class; label more images.",
        ),
        (None, ("--held-out", 1), "--held-out is 1.0; give a number above 0 and below 1."),
        (None, ("--iterations", 0), "--iterations is 0; give 10 or more."),
        (None, ("--short-edge", 0), "--short-edge is 0; give 32 or more pixels."),
        (None, ("--threshold", 128), "--threshold gives every pixel a class; leave --ignore and --tolerance out."),
        (None, ("--threshold", 0), "--threshold is 0.0; give a number above 0, as 128."),
        (None, ("--tolerance", 65), "--tolerance is 65; give levels from 0 to 64."),
        (None, ("--seed", -1), "--seed is -1; give a whole number from 0 to 4294967295."),
        (None, ("--output", "photos/0 a.jpg"), "--output photos/0 a.jpg cannot be written (File exists); name"),
        (None, ("--output", "toy/voc2012"), "A data set is called voc2012_val already; give --output another last"),
    ],
)
def test_mistakes_give_one_sentence_and_nothing_is_written(folder, output, run, spoil, options, message):
    write_masks(folder, "grey")
    if spoil:
        spoil(folder)
    result = run(*THREE, "--output", output, "--ignore", 255, *options)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.startswith("rc2l-quickstart: ")
    assert message in result.stderr and result.stderr.count("\n") == 1 and result.stderr.endswith(".\n")
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "more", "photos"]


def test_it_prints_the_next_commands_as_they_are_called_outside_a_checkout(folder, run):
    write_masks(folder, "grey")
    lines = [line.split() for line in run(*THREE, "--ignore", 255).stdout.split("Next:\n")[1].splitlines()]
    assert [words[0] for words in lines] == ["check", "train", "watch", "predict"]
    assert lines[0][1:] == ["rc2l-check", "--config-file", "quickstart/train.yaml", "--full"]
    assert [words[1] for words in lines] == ["rc2l-check", "rc2l-train", "tail", "rc2l-predict"]
    assert load_config("quickstart/train.yaml").DATASETS.TRAIN == ("quickstart_labeled",)

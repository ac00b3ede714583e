"""Problems that are found before training starts; test_bad_trees.py has more of their sentences."""

import logging

import numpy as np
import pytest
from data_files import small_config, write_dataset, write_definition, write_image, write_label
from PIL import Image

from rc2l_d2.data import check_test_data, check_training_data, register_definition
from rc2l_d2.data.checks.check import class_problems, definition_splits, remarks_on
from rc2l_d2.data.checks.remark import Remark
from rc2l_d2.data.checks.scan import Kind, Split, scan
from rc2l_d2.errors import InputError

LABELLED = ("train_002", "train_004", "train_006", "train_009")  # the images of "labeled"
SIZE = (40, 48)
CLASSES = ("class0", "class1", "class2")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def content(folder):
    content = write_dataset(folder, size=SIZE)
    content["parts"]["again"] = {"of": "train", "fraction": 0.4, "seed": 1}
    return content


@pytest.fixture
def cfg(tmp_path, content):
    register_definition(write_definition(tmp_path / "set.yaml", content))
    return small_config(content["name"])


def _refused(cfg, message, **kwargs):
    with pytest.raises(InputError, match=message) as caught:
        check_training_data(cfg, **kwargs)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def _label(folder, name, value):
    write_label(folder / f"labels/{name}.png", np.full(SIZE, value, np.uint8))


def test_good_data_passes_in_silence_and_unlabelled_images_need_no_labels(cfg, folder, caplog):
    for file in (folder / "labels").glob("train_*"):
        if file.stem not in LABELLED:
            file.unlink()
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert not caplog.records
    (folder / "images/train_000.png").unlink()
    _refused(cfg, r"1 of 6 image files are missing: .*train_000\.png")


def test_wrong_values_are_listed_with_their_files(cfg, folder):
    _label(folder, "val_002", 5)
    _refused(
        cfg,
        r"^DATASETS.TEST \(\w+_val\) has labels with values that are no class \(0 to 2\) and not the ignore value 255 "
        r"\(1 of 3 read\): .*val_002\.png \(5\); correct ",
    )
    for name in LABELLED:
        _label(folder, name, 7)
    _label(folder, LABELLED[0], 8)
    _refused(cfg, r"DATASETS.TRAIN .*: \S*train_002\.png \(8\), .*, \S*train_009\.png \(each: 7\); ")


def test_only_a_sample_is_read_of_a_large_split(cfg, folder):
    _label(folder, "val_002", 5)
    outcomes = set()
    for seed in range(12):
        cfg.SEED = seed
        try:
            check_training_data(cfg, sample=1)
            outcomes.add("passed")
        except InputError as error:
            assert "(1 of 1 read, of 3 in all)" in str(error) and "--full lists all files" in str(error)
            outcomes.add("refused")
    assert outcomes == {"passed", "refused"}


def test_warnings(cfg, folder, caplog):
    for place, name in enumerate(LABELLED[:3]):
        _label(folder, name, 2 * (place % 2))
    _label(folder, LABELLED[3], 255)
    write_image(folder / "images/train_000.png", np.zeros((31, 90, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert "has no pixel of 1 of 3 classes (4 labels read): class1; if they are in the files, define the" in caplog.text
    assert "key label_map of the data set's YAML file: 255 is read as 'ignore'." in caplog.text
    assert "side below 32 pixels (1 of 6 read)" in caplog.text and "train_000.png (90x31)" in caplog.text
    assert "labels with the ignore value on every pixel (1 of 4 read)" in caplog.text


def test_labels_of_other_images_are_a_warning(cfg, folder, caplog, monkeypatch):
    """A list whose rows are shifted by one: each label has the name of another image, the last of none."""
    names = LABELLED
    rows = [f"images/{name}.png labels/{label}.png" for name, label in zip(names, [*names[1:], "val_000"], strict=True)]
    (folder / "shifted.txt").write_text("\n".join(rows) + "\n")
    cfg.DATASETS.LABELED_LIST = str(folder / "shifted.txt")
    check_training_data(cfg)
    assert f"{len(names) - 1} labels with the name of another of its images" in caplog.text


def test_a_copy_of_a_test_image_is_a_warning(cfg, folder, caplog):
    Image.open(folder / "images/val_001.png").save(folder / "images/train_000.png", compress_level=1)
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    (record,) = caplog.records
    assert "has 1 images that are copies of held-out ones, of those read: " in record.message
    assert "train_000.png (copy of " in record.message and "val_001.png); take them out" in record.message


def test_one_class_alone_is_fine_in_the_test_split_and_where_there_is_one(cfg, tmp_path, content, folder):
    for file in (folder / "labels").glob("val_*"):
        _label(folder, file.stem, 0)
    check_training_data(cfg)
    content.update(name=f"{content['name']}one", classes=["thing"])
    for file in (folder / "labels").iterdir():
        _label(folder, file.stem, 0)
    register_definition(write_definition(tmp_path / "one.yaml", content))
    check_training_data(small_config(content["name"], num_classes=1))


def test_label_files_are_no_unlabelled_images(tmp_path, content, folder):
    content["images"] = "."
    content["labels"] = {"folder": ".", "replace": {"images/": "labels/"}}
    content["parts"] = {
        "train": {"pattern": "images/train_*"}, "val": {"pattern": "images/val_*"},
        "masks": {"pattern": "labels/*"}, "more": {"folder": "web"}, "all": {"folder": "."},
    }  # fmt: skip
    write_image(folder / "web/a.png", np.zeros((*SIZE, 3), np.uint8))
    write_label(folder / "web/train_003.png", np.zeros(SIZE, np.uint8))
    register_definition(write_definition(tmp_path / "set.yaml", content))
    name = content["name"]
    cfg = small_config(name)
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = (f"{name}_train",), (f"{name}_more",)
    check_training_data(cfg)
    for split in ("masks", "all"):
        cfg.DATASETS.UNLABELED = (f"{name}_{split}",)
        _refused(cfg, rf"split '{split}': 13 of \d+ sampled images are labels, .*label of \S*/images/train_000\.png;")
    # Also those of a data set without the key "labels".
    content.update(name=f"{name}web", images="labels", parts={"all": {"folder": "."}})
    del content["labels"]
    register_definition(write_definition(tmp_path / "web.yaml", content))
    cfg.DATASETS.UNLABELED = (f"{name}web_all",)
    _refused(cfg, r"DATASETS.UNLABELED and the labels of DATASETS.TRAIN share 10 files: \S*/labels/train_000\.png")
    cfg.DATASETS.TRAIN = (f"{name}_val",)
    cfg.DATASETS.TEST = (f"{name}_train",)
    _refused(cfg, r"the labels of DATASETS.TRAIN share 3 files: \S*/labels/val_000\.png, .*image_suffix, or a ")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{name}_train",), (f"{name}_val",)
    check_training_data(cfg, use_unlabeled=False)
    # A label whose name fits the rule would be a labelled image with itself as its label.
    cfg.DATASETS.TRAIN = (f"{name}_all",)
    with pytest.raises(InputError, match=r"split 'all': 13 of \d+ sampled images are labels, "):
        check_training_data(cfg, use_unlabeled=False)


def test_overlap(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.UNLABELED = (f"{name}_train",)
    _refused(cfg, r"DATASETS.TRAIN and DATASETS.UNLABELED share 4 images: .*train_002\.png, .*ALLOW_OVERLAP to True")
    cfg.DATASETS.ALLOW_OVERLAP = True
    check_training_data(cfg)
    cfg.DATASETS.TRAIN = (f"{name}_labeled", f"{name}_again")
    _refused(cfg, r"DATASETS.TRAIN \(\w+_labeled, \w+_again\) repeats 4 images: .*train_002\.png")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{name}_labeled",), (f"{name}_unlabeled",)
    _refused(cfg, r"DATASETS.UNLABELED and DATASETS.TEST share 6 images: .*train_000\.png")
    check_training_data(cfg, use_unlabeled=False)


def test_only_the_needed_streams_are_read(cfg, folder):
    cfg.DATASETS.UNLABELED = ("not_even_registered",)
    _refused(cfg, "not_even_registered")
    check_training_data(cfg, use_unlabeled=False)
    cfg.DATASETS.TRAIN = ()
    _refused(cfg, r"DATASETS.TRAIN = \(\) holds no image", use_unlabeled=False)
    assert len(check_test_data(cfg)) == 3
    _label(folder, "val_001", 5)
    with pytest.raises(InputError, match=r"val_001\.png"):
        check_test_data(cfg)


def _spoil(folder):
    """Return a data set with one file of each kind of problem, and the expected findings."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    labels, images = folder / "labels", folder / "images"
    data = (images / "train_000.png").read_bytes()
    (images / "train_000.png").write_bytes(data[:500])
    write_image(images / "train_001.png", np.zeros((16, 48, 3), np.uint8))
    (labels / "train_002.png").write_text("no label")
    write_image(labels / "train_003.png", noise)
    _label(folder, "train_004", 9)
    _label(folder, "train_005", 255)
    write_label(labels / "train_006.png", np.full(SIZE, 300, np.uint16))
    entries = [
        {"file_name": str(images / f"train_{i:03d}.png"), "sem_seg_file_name": str(labels / f"train_{i:03d}.png")}
        for i in range(10)
    ]
    del entries[9]["sem_seg_file_name"]
    return entries, {
        Kind.IMAGE_UNREADABLE: ["train_000"],
        Kind.TINY: ["train_001"],
        Kind.SIZES_DIFFER: ["train_001"],
        Kind.LABEL_UNREADABLE: ["train_002"],
        Kind.LABEL_COLORS: ["train_003"],
        Kind.VALUES_OUTSIDE: ["train_004", "train_006"],
        Kind.ALL_IGNORED: ["train_005"],
        Kind.LABEL_MISSING: ["train_009"],
    }


@pytest.mark.parametrize("processes", [0, 2])
def test_scan_finds_everything(content, folder, processes):
    entries, expected = _spoil(folder)
    steps = []
    report = scan(Split("all", entries, True, CLASSES, 255), processes=processes, progress=lambda: steps.append(1))
    found = {
        kind: [file.rsplit("/", 1)[1].removesuffix(".png") for file, _ in examples]
        for kind, examples in report.examples.items()
    }
    assert found == expected and report.problems == {kind: len(files) for kind, files in expected.items()}
    assert len(steps) == report.scanned == 10 and report.complete
    # Files 0, 5, 7 and 8 have labels that can be counted; each has one ignored pixel, the fifth nothing else.
    good = [np.asarray(Image.open(entries[index]["sem_seg_file_name"])) for index in (0, 7, 8)]
    assert report.labels == 4 and report.ignored == 3 + SIZE[0] * SIZE[1]
    assert report.pixels.tolist() == [sum(int((label == value).sum()) for label in good) for value in range(3)]
    assert report.images_with.tolist() == [3, 3, 3] and report.absent == []
    assert report.sizes == {(16, 48): 1, SIZE: 8}
    fatal = {remark.what: remark.fatal for remark in remarks_on(report)}
    assert [what.split(" has ")[1][:20] for what in fatal if not fatal[what]] == [
        "labels with the igno", "images with a side b",
    ]  # fmt: skip
    unlabelled = scan(Split("all", entries, False, CLASSES, 255), processes=processes)
    assert set(unlabelled.problems) == {Kind.IMAGE_UNREADABLE, Kind.TINY} and unlabelled.absent == []


def test_scan_samples_by_seed_in_the_order_of_the_list_and_shows_ten(folder):
    entries = [{"file_name": str(folder / f"none{index:03d}.png")} for index in range(100)]
    split = Split("all", entries, False, CLASSES, 255)
    first = scan(split, limit=40, seed=3)
    examples = first.examples[Kind.IMAGE_UNREADABLE]
    assert first.problems[Kind.IMAGE_UNREADABLE] == 40 and len(examples) == 10 and examples == sorted(examples)
    assert first.examples == scan(split, limit=40, seed=3, processes=1).examples
    assert first.examples != scan(split, limit=40, seed=4).examples
    (remark,) = remarks_on(scan(split))
    assert remark.fatal and remark.count == 100 and len(remark.names) == 10
    # In a sentence, five names, and once what they have in common.
    text = (
        "none003.png, {0}/none004.png (each: the image file cannot be read (No such file or directory)), ...; replace"
    )
    assert text.format(folder) in str(remark) and str(remark).count("cannot be read (No such") == 1


def test_different_details_stay_with_their_files():
    details = ("", "9x9", "9x9", "7x7")
    remark = Remark(True, "Some", ("a", "b", "c", "d"), 4, "act", details)
    assert str(remark) == "Some: a, b, c (each: 9x9), d (7x7); act."


def test_splits_of_a_definition(tmp_path, content, folder):
    (folder / "labels/train_000.png").unlink()
    write_image(folder / "images/web/a.png", np.zeros((*SIZE, 3), np.uint8))
    content["parts"] |= {"web": {"folder": "web"}}
    for place, name in enumerate(LABELLED):
        _label(folder, name, 2 * (place % 2))
    path = write_definition(tmp_path / "set.yaml", content)
    splits, remarks = definition_splits(path)
    splits = {split.name.split("'")[1]: split for split in splits}
    assert [name for name, split in splits.items() if not split.labelled] == ["train", "unlabeled", "web"]
    # A split without any label, for DATASETS.UNLABELED, needs no warning.
    assert len(remarks) == 2
    note = str(remarks[0])
    assert note.startswith("split 'train' is checked without labels, as 1 of 10 images have none: ") and len(note) < 250
    assert note.endswith("/images/train_000.png.")
    (labeled,), _ = definition_splits(path, ["labeled"])
    assert [str(remark) for remark in class_problems([scan(labeled)])] == [
        "No label of split 'labeled' has these classes: class1; label images that show them, sample other labelled "
        "images, or take the classes out."
    ]
    # Not all labels were read; or another labelled split has the classes; or none has.
    assert class_problems([scan(labeled, 3)]) == []
    assert class_problems([scan(labeled), scan(splits["val"])]) == []
    (remark,) = class_problems([scan(labeled), scan(splits["again"])])
    assert str(remark).startswith("No label of any split has these classes: class1;")
    with pytest.raises(InputError, match="no split 'lab'; the splits are train, val, "):
        definition_splits(path, ["lab"])

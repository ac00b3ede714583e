"""What is found wrong before training starts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from data_files import small_config, write_dataset, write_definition, write_image, write_label
from PIL import Image

from rc2l_d2.data import check_test_data, check_training_data, register_definition
from rc2l_d2.data.checks.check import config_parts, definition_parts, remarks_on, unlearnable_classes
from rc2l_d2.data.checks.scan import (
    ALL_IGNORED,
    IMAGE_UNREADABLE,
    LABEL_COLORS,
    LABEL_MISSING,
    LABEL_UNREADABLE,
    SIZES_DIFFER,
    TINY,
    VALUES_OUTSIDE,
    ScanSettings,
    scan,
)
from rc2l_d2.data.loading.reading import read_image
from rc2l_d2.errors import InputError

LABELLED = ("train_002", "train_004", "train_006", "train_009")  # what the part "labeled" draws
SIZE = (40, 48)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def content(folder):
    content = write_dataset(folder, size=SIZE)
    content["parts"]["none"] = {"list": "none.txt"}
    content["parts"]["again"] = {"of": "train", "fraction": 0.4, "seed": 1}
    (folder / "none.txt").write_text("\n")
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


def test_good_data_passes_in_silence(cfg, caplog):
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert not caplog.records


def test_unlabelled_images_need_no_labels_but_must_be_there(cfg, folder):
    for file in (folder / "labels").glob("train_*"):
        if file.stem not in LABELLED:
            file.unlink()
    check_training_data(cfg)
    (folder / "images/train_000.png").unlink()
    _refused(cfg, r"1 of 6 image files are missing: .*train_000\.png")


def test_wrong_values(cfg, folder):
    _label(folder, "val_002", 5)
    _refused(
        cfg,
        r"^DATASETS.TEST \(\w+_val\) has labels with values that are no class \(0 to 2\) and not the ignore value 255 "
        r"\(1 of 3 read\): .*val_002\.png \(5\); correct ",
    )
    for name in LABELLED:
        _label(folder, name, 7)
    # A reason that all of them have is given once.
    _refused(cfg, r"DATASETS.TRAIN .*\(4 of 4 read\): \S*train_002\.png, .*, \S*train_009\.png \(each: 7\); ")
    _label(folder, LABELLED[0], 8)
    _refused(cfg, r"DATASETS.TRAIN .*: \S*train_002\.png \(8\), .*, \S*train_009\.png \(7\); ")


def test_only_a_sample_is_read_of_a_large_part(cfg, folder):
    _label(folder, "val_002", 5)
    outcomes = set()
    for seed in range(12):
        cfg.SEED = seed
        try:
            check_training_data(cfg, sample=1)
            outcomes.add("passed")
        except InputError as error:
            assert "(1 of 1 read, of 3 in all)" in str(error) and "--full tells of all files" in str(error)
            outcomes.add("refused")
    assert outcomes == {"passed", "refused"}


def test_wrong_size(cfg, folder):
    write_image(folder / "images/val_000.png", np.zeros((40, 44, 3), np.uint8))
    _refused(cfg, r"labels of another size .*val_000\.png \(label 48x40, image 44x40\); give both the same size")


def test_exif_rotation_counts(cfg, folder):
    picture = Image.new("RGB", SIZE)
    exif = picture.getexif()
    exif[274] = 8
    file = folder / "images/val_000.png"
    picture.save(file, exif=exif)
    check_training_data(cfg)
    # PNG may say so after the pixels as well.
    data = file.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    file.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_image(file).shape[:2] == SIZE
    check_training_data(cfg)


@pytest.mark.parametrize(("name", "key"), [("train_000", "UNLABELED"), ("train_002", "TRAIN"), ("val_001", "TEST")])
def test_images_of_every_stream_are_decoded(cfg, folder, name, key):
    # Its header alone says nothing: all of it is there.
    file = folder / f"images/{name}.png"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    _refused(cfg, rf"DATASETS.{key} .* that cannot be read .*{name}\.png \(the image file ends too early\)")


def test_images_that_cannot_be_read(cfg, folder):
    (folder / "images/val_000.png").write_text("no picture")
    with pytest.raises(InputError, match=r"val_000\.png \(the image file is not an image .*\); replace them"):
        check_test_data(cfg)


def test_labels_in_colours(cfg, folder):
    write_image(folder / "labels/val_001.png", np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    _refused(cfg, r"labels with colours where class indices are expected .*val_001\.png .*label_map")


def test_ignored_labels(cfg, folder, caplog):
    _label(folder, LABELLED[0], 255)
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert "labels with the ignore value on every pixel (1 of 4 read)" in caplog.text
    for name in LABELLED[1:]:
        _label(folder, name, 255)
    _refused(cfg, r"DATASETS.TRAIN .*ignore value on every pixel \(4 of 4 read\)")


def test_warnings_on_absent_classes_and_tiny_images(cfg, folder, caplog):
    for place, name in enumerate(LABELLED):
        _label(folder, name, 2 * (place % 2))
    write_image(folder / "images/train_000.png", np.zeros((31, 90, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert "has no pixel of 1 of 3 classes (4 labels read): class1; if they are in the files, say in" in caplog.text
    assert "what the values mean: 255 is read as 'ignore'." in caplog.text
    assert "side below 32 pixels (1 of 6 read)" in caplog.text and "train_000.png (90x31)" in caplog.text


def test_labels_that_show_one_class_teach_nothing(cfg, folder):
    # Masks of 0 and 255, which is the ignore value.
    for name in LABELLED:
        write_label(folder / f"labels/{name}.png", np.where(np.eye(*SIZE) > 0, 255, 0).astype(np.uint8))
    _refused(
        cfg,
        r"^DATASETS.TRAIN \(\w+_labeled\) shows no class but 'class0' \(4 labels read\); add labels that show others, "
        r"or say in the key label_map .*: 255 is read as 'ignore'",
    )
    # Where only the test part shows one class, training can go on.
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (cfg.DATASETS.TEST[0],), (cfg.DATASETS.TRAIN[0],)
    check_training_data(cfg)


def test_one_class_is_all_there_is_of_one(tmp_path, content, folder):
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
    for part in ("masks", "all"):
        cfg.DATASETS.UNLABELED = (f"{name}_{part}",)
        _refused(cfg, rf"split '{part}': 13 of \d+ sampled images are labels, \S*/labels/train_000\.png among them, "
                      r"the label of \S*/images/train_000\.png; give image_suffix")  # fmt: skip
    # Also those of a data set that says nothing of labels.
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


def test_number_of_classes(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    _refused(cfg, r"MODEL.SEM_SEG_HEAD.NUM_CLASSES is 19, but .*_labeled' in .*TRAIN has 3 classes \(.*set\.yaml")


def test_ignore_value(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    _refused(cfg, r"IGNORE_VALUE is 254.*ignore_value 255")


def test_training_on_test_images(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.TEST = (f"{name}_train",)
    _refused(cfg, r"DATASETS.TRAIN and DATASETS.TEST share 4 images: .*train_002\.png")
    cfg.DATASETS.TEST = (f"{name}_unlabeled",)
    _refused(cfg, r"DATASETS.UNLABELED and DATASETS.TEST share 6 images: .*train_000\.png")
    check_training_data(cfg, use_unlabeled=False)


def test_labelled_images_among_the_unlabelled(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.UNLABELED = (f"{name}_train",)
    _refused(cfg, r"DATASETS.TRAIN and DATASETS.UNLABELED share 4 images: .*train_002\.png, .*ALLOW_OVERLAP to True")
    cfg.DATASETS.ALLOW_OVERLAP = True
    check_training_data(cfg)


def test_one_image_twice_in_a_stream(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.TRAIN = (f"{name}_labeled", f"{name}_again")
    _refused(cfg, r"DATASETS.TRAIN \(\w+_labeled, \w+_again\) repeats 4 images: .*train_002\.png")


def test_names_and_empty_parts(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    for key in ("UNLABELED", "TRAIN"):
        cfg.DATASETS[key] = (f"{name}_none",)
        _refused(cfg, r"split 'none' holds no image: the list \S*none\.txt is empty; fill it or name another")
    cfg.DATASETS.UNLABELED, cfg.DATASETS.TRAIN = (f"{name}_unlabeled",), ()
    _refused(cfg, r"DATASETS.TRAIN = \(\) holds no image")
    cfg.DATASETS.TRAIN = ("voc_trian",)
    _refused(cfg, r"DATASETS.TRAIN names the data set 'voc_trian', which is not registered")


def test_supervised_training_leaves_the_unlabelled_part_alone(cfg):
    cfg.DATASETS.UNLABELED = ("not_even_registered",)
    _refused(cfg, "not_even_registered")
    check_training_data(cfg, use_unlabeled=False)


def test_evaluation_looks_at_the_test_part_alone(cfg, folder):
    cfg.DATASETS.TRAIN = cfg.DATASETS.UNLABELED = ("not_even_registered",)
    assert len(check_test_data(cfg)) == 3
    _label(folder, "val_001", 5)
    with pytest.raises(InputError, match=r"val_001\.png"):
        check_test_data(cfg)


def _spoil(folder):
    """A data set with one file of each kind, and what is to be found."""
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
        IMAGE_UNREADABLE: ["train_000"],
        TINY: ["train_001"],
        SIZES_DIFFER: ["train_001"],
        LABEL_UNREADABLE: ["train_002"],
        LABEL_COLORS: ["train_003"],
        VALUES_OUTSIDE: ["train_004", "train_006"],
        ALL_IGNORED: ["train_005"],
        LABEL_MISSING: ["train_009"],
    }


@pytest.mark.parametrize("processes", [0, 2])
def test_scan_finds_everything(content, folder, processes):
    entries, expected = _spoil(folder)
    steps = []
    report = scan(entries, ScanSettings(True, 3, 255), processes=processes, progress=steps.append)
    found = {
        kind: [file.rsplit("/", 1)[1].removesuffix(".png") for file, _ in finding.examples]
        for kind, finding in report.findings.items()
    }
    assert found == expected and all(report.findings[kind].count == len(files) for kind, files in expected.items())
    assert sum(steps) == report.scanned == report.total == 10 and report.complete
    # Files 0, 5, 7 and 8 have labels that can be counted; each has one ignored pixel, the fifth nothing else.
    good = [np.asarray(Image.open(entries[index]["sem_seg_file_name"])) for index in (0, 7, 8)]
    assert report.labels == 4 and report.ignored == 3 + SIZE[0] * SIZE[1]
    assert report.pixels.tolist() == [sum(int((label == value).sum()) for label in good) for value in range(3)]
    assert report.images_with.tolist() == [3, 3, 3] and report.absent == []
    assert report.size_range() == ((16, 48), SIZE, SIZE) and sum(report.sizes.values()) == 9
    assert {kind for kind in report.findings if not report.is_fatal(kind)} == {TINY, ALL_IGNORED}


def test_scan_of_unlabelled_images_does_not_look_at_labels(content, folder):
    entries, _ = _spoil(folder)
    report = scan(entries, ScanSettings(False, 3, 255))
    assert set(report.findings) == {IMAGE_UNREADABLE, TINY} and report.absent == []


def test_scan_draws_the_same_sample_in_the_order_of_the_list(content, folder):
    entries = [{"file_name": str(folder / f"none{index:03d}.png")} for index in range(100)]
    settings = ScanSettings(False, 3, 255)
    first = scan(entries, settings, limit=40, seed=3).findings[IMAGE_UNREADABLE]
    assert first.count == 40 and len(first.examples) == 10 and first.examples == sorted(first.examples)
    assert first == scan(entries, settings, limit=40, seed=3, processes=1).findings[IMAGE_UNREADABLE]
    assert first.examples != scan(entries, settings, limit=40, seed=4).findings[IMAGE_UNREADABLE].examples


def test_remarks_show_ten_names(cfg, folder):
    entries = [{"file_name": str(folder / f"none{index:03d}.png")} for index in range(12)]
    part = config_parts(cfg)["UNLABELED"]
    remark = remarks_on(part, scan(entries, ScanSettings(False, 3, 255)))[0]
    assert remark.fatal and remark.count == 12 and len(remark.names) == 10
    assert str(remark).count("(No such file or directory)") == 1
    assert "none009.png (each: the image file cannot be read (No such file or directory)), ...; replace" in str(remark)


def test_parts_of_a_definition(tmp_path, content, folder):
    (folder / "labels/train_000.png").unlink()
    write_image(folder / "images/web/a.png", np.zeros((*SIZE, 3), np.uint8))
    content["parts"] |= {"web": {"folder": "web"}}
    del content["parts"]["none"]
    for place, name in enumerate(LABELLED):
        _label(folder, name, 2 * (place % 2))
    path = write_definition(tmp_path / "set.yaml", content)
    parts = {part.name.split("'")[1]: part for part in definition_parts(path)}
    assert [name for name, part in parts.items() if not part.labelled] == ["train", "unlabeled", "web"]
    # That a part without any label is one for DATASETS.UNLABELED needs no words.
    assert [name for name, part in parts.items() if part.note] == ["train", "unlabeled"]
    note = str(parts["train"].note)
    assert note.startswith("part 'train' is checked without labels, as 1 of 10 images have none: ") and len(note) < 250
    assert note.endswith("/images/train_000.png.")
    (labeled,) = definition_parts(path, ["labeled"])
    assert [str(remark) for remark in unlearnable_classes([labeled], [labeled.scan()])] == [
        "No label of part 'labeled' has these classes: class1; label images that show them, draw others as the "
        "labelled part, or take the classes out."
    ]
    # Not all labels were read; or another labelled part has the classes; or none has.
    assert unlearnable_classes([labeled], [labeled.scan(2)]) == []
    val = parts["val"]
    assert unlearnable_classes([labeled, val], [labeled.scan(), val.scan()]) == []
    again = parts["again"]
    (remark,) = unlearnable_classes([labeled, again], [labeled.scan(), again.scan()])
    assert str(remark).startswith("No label of any part has these classes: class1;")
    with pytest.raises(InputError, match="no part 'lab'; the parts are train, val, "):
        definition_parts(path, ["lab"])

"""What is found wrong before training starts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from data_files import small_config, write_dataset, write_definition, write_image, write_label
from PIL import Image

from rc2l_d2.data import check_test_data, check_training_data, register_definition
from rc2l_d2.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def cfg(tmp_path, folder):
    content = write_dataset(folder)
    content["parts"]["none"] = {"list": "none.txt"}
    (folder / "none.txt").write_text("\n")
    register_definition(write_definition(tmp_path / "set.yaml", content))
    return small_config(content["name"])


def _refused(cfg, message, **kwargs):
    with pytest.raises(InputError, match=message) as caught:
        check_training_data(cfg, **kwargs)
    assert "\n" not in str(caught.value)


def test_good_data_passes(cfg):
    check_training_data(cfg)


def test_unlabelled_images_need_no_labels_but_must_be_there(cfg, folder):
    labelled = ("train_002", "train_004", "train_006", "train_009")
    for file in (folder / "labels").glob("train_*"):
        if file.stem not in labelled:
            file.unlink()
    check_training_data(cfg)
    (folder / "images/train_000.png").unlink()
    _refused(cfg, r"1 of 6 image files are missing: .*train_000\.png")


def test_wrong_label_in_the_test_part(cfg, folder):
    write_label(folder / "labels/val_002.png", np.full((24, 32), 5, np.uint8))
    _refused(cfg, r"val_002\.png.*ignore value 255: 5;")


def test_only_a_sample_is_read_of_a_large_part(cfg, folder):
    write_label(folder / "labels/val_002.png", np.full((24, 32), 5, np.uint8))
    outcomes = set()
    for seed in range(12):
        cfg.SEED = seed
        try:
            check_training_data(cfg, sample=1)
            outcomes.add("passed")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"passed", "refused"}


def test_wrong_size(cfg, folder):
    write_image(folder / "images/val_000.png", np.zeros((24, 30, 3), np.uint8))
    _refused(cfg, r"val_000\.png: the label is 32x24 pixels, its image .* 30x24")


def test_exif_rotation_counts(cfg, folder):
    picture = Image.new("RGB", (24, 32))
    exif = picture.getexif()
    exif[274] = 8
    picture.save(folder / "images/val_000.png", exif=exif)
    check_training_data(cfg)


def test_image_that_is_none(cfg, folder):
    (folder / "images/val_000.png").write_text("no picture")
    _refused(cfg, r"val_000\.png: the image file cannot be decoded")


def test_number_of_classes(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    _refused(cfg, r"MODEL.SEM_SEG_HEAD.NUM_CLASSES is 19, but .*_labeled' in .*TRAIN has 3 classes \(.*set\.yaml")


def test_ignore_value(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    _refused(cfg, r"IGNORE_VALUE is 254.*ignore_value 255")


def test_training_on_test_images(cfg, folder, caplog):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.TEST = (f"{name}_train",)
    _refused(cfg, r"DATASETS.TRAIN and DATASETS.TEST share 4 images, .*train_002\.png")
    # Unlabelled test images are a choice, but one to be told of.
    cfg.DATASETS.TEST = (f"{name}_unlabeled",)
    with caplog.at_level(logging.WARNING):
        check_training_data(cfg)
    assert "share 6 images" in caplog.text


def test_names_and_empty_parts(cfg):
    name = cfg.DATASETS.TEST[0].removesuffix("_val")
    cfg.DATASETS.UNLABELED = (f"{name}_none",)
    _refused(cfg, r"DATASETS.UNLABELED = .* holds no image")
    cfg.DATASETS.TRAIN = (f"{name}_none",)
    _refused(cfg, r"DATASETS.TRAIN = .* holds no image")
    cfg.DATASETS.TRAIN = ()
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
    write_label(folder / "labels/val_001.png", np.full((24, 32), 5, np.uint8))
    with pytest.raises(InputError, match=r"val_001\.png"):
        check_test_data(cfg)

"""Dataset dicts to samples, and the errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import small_config, write_image, write_label

from rc2l_d2.data import LabeledMapper, TestMapper, UnlabeledMapper, read_image, read_label
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.loading import mappers
from rc2l_d2.errors import InputError


@pytest.fixture
def entry(tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "image.png", rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
    write_label(tmp_path / "label.png", rng.integers(0, 3, (24, 32)).astype(np.uint8))
    return {
        "file_name": str(tmp_path / "image.png"),
        "image_id": "image",
        "sem_seg_file_name": str(tmp_path / "label.png"),
    }


def test_a_jpeg_that_is_decoded_smaller_stays_with_its_label(tmp_path, monkeypatch):
    label = np.zeros((96, 128), np.uint8)
    label[32:, 40:] = 1
    write_image(tmp_path / "image.jpg", label[..., None].repeat(3, 2) * 200)
    write_label(tmp_path / "label.png", label)
    entry = {"file_name": str(tmp_path / "image.jpg"), "sem_seg_file_name": str(tmp_path / "label.png")}
    cfg = small_config()
    cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS = True
    decoded = []
    read = mappers.read_image_reduced
    monkeypatch.setattr(mappers, "read_image_reduced", lambda *given: decoded.append(read(*given)) or decoded[-1])
    for mapper in (LabeledMapper(cfg), UnlabeledMapper(cfg)):
        for seed in range(10):
            sample = mapper(entry, np.random.default_rng(seed))
            bright, inside = sample["image"][0] > 100, sample["sem_seg"] != 255
            wrong = (bright != (sample["sem_seg"] == 1))[inside].sum()
            assert wrong <= 36, "no more than one row and one column, at the edge between both"
    assert {image.shape[0] for image, _ in decoded} <= {24, 48} and {size for _, size in decoded} == {(96, 128)}
    write_label(tmp_path / "label.png", label[::4, ::4].copy())
    for mapper in (LabeledMapper(cfg), UnlabeledMapper(cfg)):
        with pytest.raises(InputError, match=r"label\.png: the label is 32x24 pixels, its image .*image\.jpg 128x96"):
            mapper(entry, np.random.default_rng(0))


def unchanged_size(crop: list[int], num_classes: int = 3):
    cfg = small_config(num_classes=num_classes)
    cfg.INPUT.CROP.SIZE = crop
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (0,), "choice"
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_labeled_padding(entry, format):
    cfg = unchanged_size([40, 50])
    cfg.INPUT.FORMAT = format
    sample = LabeledMapper(cfg)(entry, np.random.default_rng(0))
    assert sample["image"].dtype == sample["sem_seg"].dtype == torch.uint8
    assert sample["image"].shape == (3, 40, 50) and sample["sem_seg"].shape == (40, 50)
    image = torch.from_numpy(read_image(entry["file_name"], format)).permute(2, 0, 1)
    assert (sample["image"][:, :24, :32] == image).all()
    assert (sample["image"][:, 24:] == 128).all() and (sample["image"][:, :, 32:] == 128).all()
    assert (sample["sem_seg"][:24, :32].numpy() == read_label(entry["sem_seg_file_name"])).all()
    assert (sample["sem_seg"][24:] == 255).all() and (sample["sem_seg"][:, 32:] == 255).all()


def test_unlabeled_sample_has_aligned_views_and_padding_untouched(entry):
    cfg = small_config()
    cfg.INPUT.CROP.SIZE = [40, 50]
    mapper = UnlabeledMapper(cfg)
    del entry["sem_seg_file_name"]
    changed = 0
    for seed in range(10):
        sample = mapper(entry, np.random.default_rng(seed))
        assert set(sample) == {"file_name", "image", "strong", "inside"}
        assert sample["image"].shape == (3, 40, 50) and sample["strong"].shape == (1, 3, 40, 50)
        inside = sample["inside"]
        assert inside.dtype == torch.bool and inside.shape == (40, 50) and 0 < inside.sum() < 2000
        for view in ("image", "strong"):
            assert (sample[view][..., ~inside] == 128).all()
        changed += bool((sample["image"] != sample["strong"]).any())
    assert changed >= 7


def test_a_further_strong_view_changes_neither_the_first_nor_the_weak_one(entry):
    cfg = small_config()
    one = UnlabeledMapper(cfg)
    cfg.MODEL.SEMI_SUPERVISED.STRONG_VIEWS = 2
    two, differ = UnlabeledMapper(cfg), 0
    for seed in range(10):
        sample, more = (mapper(entry, np.random.default_rng(seed)) for mapper in (one, two))
        assert torch.equal(sample["image"], more["image"]) and torch.equal(sample["strong"][0], more["strong"][0])
        assert len(more["strong"]) == 2
        differ += bool((more["strong"][0] != more["strong"][1]).any())
    assert differ >= 7


def test_unlabeled_sample_with_a_label_to_compare_with(entry):
    cfg = small_config()
    cfg.INPUT.CROP.SIZE = [40, 50]
    without = UnlabeledMapper(cfg)
    cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS = True
    mapper, labelled = UnlabeledMapper(cfg), LabeledMapper(cfg)
    for seed in range(5):
        plain = without(entry, np.random.default_rng(seed))
        sample = mapper(entry, np.random.default_rng(seed))
        assert set(sample) == {*plain, "sem_seg"}
        assert all(torch.equal(sample[key], plain[key]) for key in ("image", "strong", "inside"))
        assert torch.equal(sample["sem_seg"], labelled(entry, np.random.default_rng(seed))["sem_seg"])
        assert torch.equal(sample["sem_seg"] == 255, ~sample["inside"]) and sample["sem_seg"].dtype == torch.uint8
    del entry["sem_seg_file_name"]
    assert (mapper(entry, np.random.default_rng(0))["sem_seg"] == 255).all()


def test_test_sample(entry):
    cfg = small_config()
    sample = TestMapper(cfg)(entry)
    assert (sample["height"], sample["width"]) == (24, 32)
    assert sample["image"].shape == (3, 24, 32)
    assert sample["image_id"] == "image" and sample["sem_seg_file_name"] == entry["sem_seg_file_name"]
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 60
    sample = TestMapper(cfg)(entry)
    assert (sample["height"], sample["width"]) == (24, 32)
    assert sample["image"].shape == (3, 45, 60)


def test_label_map_of_the_entry(entry, tmp_path):
    mask = np.zeros((24, 32), np.uint8)
    mask[:12] = 255
    write_label(tmp_path / "label.png", mask)
    entry["label_map"] = LabelMap.from_yaml({0: "ignore", 255: "thing"}, ["background", "thing"], [], 255)
    cfg = unchanged_size([24, 32], num_classes=2)
    sample = LabeledMapper(cfg)(entry, np.random.default_rng(0))
    assert (sample["sem_seg"][:12] == 1).all() and (sample["sem_seg"][12:] == 255).all()


@pytest.mark.parametrize(
    ("values", "num_classes", "message"),
    [
        ([0, 2, 255], 2, r"label\.png: the label has values .* \(0 to 1\) and not the ignore value 255: 2; correct"),
        ([3, 7, 3], 3, r"label\.png: the label has values .*: 3, 7; correct"),
    ],
)
def test_label_values_outside_the_classes(entry, values, num_classes, message):
    write_label(Path(entry["sem_seg_file_name"]), np.resize(np.array(values, np.uint8), (24, 32)))
    cfg = small_config(num_classes=num_classes)
    UnlabeledMapper(cfg)(entry, np.random.default_rng(0))
    cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS = True
    for mapper in (LabeledMapper(cfg), UnlabeledMapper(cfg)):
        with pytest.raises(InputError, match=message):
            mapper(entry, np.random.default_rng(0))
    LabeledMapper(small_config(num_classes=8))(entry, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.CROP.ENABLED", False),
        ("INPUT.CROP.TYPE", "relative"),
        ("INPUT.CROP.SIZE", [0.5, 0.5]),
        ("INPUT.RANDOM_FLIP", "vertical"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "sometimes"),
        ("INPUT.MIN_SIZE_TRAIN", (16, 20, 24)),
        ("INPUT.FORMAT", "YUV"),
        ("INPUT.STRONG_JITTER", (0.5, 0.5, 0.5)),
        ("INPUT.STRONG_JITTER", (0.5, 0.5, 0.5, 0.6)),
        ("INPUT.STRONG_GRAYSCALE", 2.0),
    ],
)
def test_keys_out_of_range(key, value):
    cfg = small_config()
    cfg.merge_from_list([key, value])
    with pytest.raises(InputError, match=key.rsplit(".", 1)[0]):
        UnlabeledMapper(cfg)


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_test_images_have_the_configured_channel_order(entry, format):
    cfg = small_config()
    cfg.INPUT.FORMAT, cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = format, True, (0,)
    sample = TestMapper(cfg)(entry)
    expected = torch.from_numpy(read_image(entry["file_name"], format).copy()).permute(2, 0, 1)
    assert torch.equal(sample["image"], expected) and torch.equal(sample["scales"][0], expected)


def test_ssds_distortion_changes_the_image_alone(entry):
    plain = unchanged_size([32, 40])  # of an image of 24 x 32
    distorted = plain.clone()
    distorted.INPUT.COLOR_AUG_SSD = True
    plain.INPUT.COLOR_AUG_SSD = False
    changed = 0
    for seed in range(8):
        one, other = (LabeledMapper(cfg)(entry, np.random.default_rng(seed)) for cfg in (plain, distorted))
        assert torch.equal(one["sem_seg"], other["sem_seg"])
        assert (other["image"][:, 24:] == 128).all() and (other["image"][..., 32:] == 128).all()
        changed += not torch.equal(one["image"], other["image"])
    assert changed > 4


def test_the_fraction_of_grey_strong_views_is_the_configured_one(entry):
    cfg = small_config()
    cfg.INPUT.STRONG_JITTER = (0.0, 0.0, 0.0, 0.0)
    for fraction, is_grey in ((1.0, True), (0.0, False)):
        cfg.INPUT.STRONG_GRAYSCALE = fraction
        for seed in range(4):
            red, green, blue = UnlabeledMapper(cfg)(entry, np.random.default_rng(seed))["strong"][0]
            assert (torch.equal(red, green) and torch.equal(green, blue)) == is_grey

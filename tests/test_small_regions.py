"""The warning of labelled regions that shrink below four mask pixels at the training size."""

import numpy as np
import pytest
from data_files import small_config, write_dataset, write_definition, write_image, write_label

from rc2l_d2.data import check_training_data, register_definition
from rc2l_d2.data.checks.small_regions import shrinking_regions

CLASSES = ("ground", "ship", "harbour")


def entries(tmp_path, ship: int, number: int = 3):
    """Labels of 400 x 600 pixels with four ships of ``ship`` x ``ship`` pixels, two specks and a harbour."""
    label = np.zeros((400, 600), np.uint8)
    for column in range(4):
        label[50 : 50 + ship, 100 * column + 10 : 100 * column + 10 + ship] = 1
    label[300, 300] = label[310, 310] = 1
    label[200:300, :100] = 2
    for index in range(number):
        write_label(tmp_path / f"{index}.png", label)
    return [{"file_name": "", "sem_seg_file_name": str(tmp_path / f"{index}.png")} for index in range(number)]


@pytest.mark.parametrize(("ship", "short_edge", "long_edge", "edge"), [
    (10, 320, 9999, 0),  # 10 * 0.8 = 8 pixels: exactly four mask pixels
    (10, 319, 9999, 320),
    (10, 400, 479, 320),  # limited by the longer edge
    (6, 190, 9999, 400),  # 2.25 mask pixels in the file: the file's own size
    (6, 210, 9999, 0),
    (10, 0, 9999, 0),
    (10, 800, 9999, 0),
    (30, 100, 9999, 107),  # 7.5 pixels; four mask pixels at 400 * 8 / 30
    (40, 100, 9999, 0),
])  # fmt: skip
def test_a_class_whose_regions_shrink_is_named_with_the_option_that_helps(tmp_path, ship, short_edge, long_edge, edge):
    sentence = shrinking_regions(entries(tmp_path, ship), CLASSES, short_edge, long_edge)
    if not edge:
        assert sentence is None
    else:
        assert "ship (12 of 12); train on crops at full size (INPUT.MIN_SIZE_TRAIN (0,)" in sentence
        assert f"--short-edge {edge})" in sentence and "harbour" not in sentence and "\n" not in sentence


def test_training_begins_with_the_warning(tmp_path, caplog):
    content = write_dataset(tmp_path / "data", size=(200, 300))
    label = np.zeros((200, 300), np.uint8)
    label[::20, ::20] = 0
    for column in range(0, 300, 30):
        label[20:30, column : column + 10] = 1
    label[100:, :150] = 2
    for path in (tmp_path / "data/labels").iterdir():
        write_label(path, label)
        write_image(tmp_path / "data/images" / path.name, np.zeros((200, 300, 3), np.uint8))
    register_definition(write_definition(tmp_path / "set.yaml", content))
    cfg = small_config(content["name"])
    check_training_data(cfg)
    assert "at a shorter edge of 30 pixels are hardly learned: class1 (40 of 40); train on crops" in caplog.text
    caplog.clear()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (0,), "choice"
    check_training_data(cfg)
    assert "hardly learned" not in caplog.text

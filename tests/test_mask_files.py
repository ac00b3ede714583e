"""Labels from one mask file for each image and class, and the masks themselves."""

import numpy as np
import pytest
from data_files import write_label
from PIL import Image

from rc2l_d2.data import read_label
from rc2l_d2.data.labels.drawn import NamedClasses
from rc2l_d2.data.labels.mask_files import MaskLabels, read_mask
from rc2l_d2.errors import InputError

BRUSH = "task-{id}-annotation-{one}-tag-{class}-*.png"
CLASSES = ("background", "car", "red car", "semi-truck")


def mask(*columns) -> np.ndarray:
    values = np.zeros((4, 6), np.uint8)
    values[:, list(columns)] = 255
    return values


def drawn(folder, pattern, image_id, outside="background", images="", class_name=""):
    names = NamedClasses.from_yaml(outside, {}, CLASSES, 255)
    label = MaskLabels(names, images, pattern, class_name).of(str(folder), "", "", image_id)
    return None if label is None else read_label(str(folder), label)


def test_masks_of_label_studio_are_joined_in_the_order_of_their_names(tmp_path):
    for number, name, columns in (
        (1, "car-0", (0, 1, 2)), (1, "car-10", (5,)), (1, "semi-truck-0", (2, 3)), (12, "car-0", (4,)),
    ):  # fmt: skip
        write_label(tmp_path / f"task-{number}-annotation-3-by-a@b.c-tag-{name}.png", mask(*columns))
    assert drawn(tmp_path, BRUSH, "1")[0].tolist() == [1, 1, 3, 3, 0, 1]
    assert drawn(tmp_path, BRUSH, "12", "ignore")[0].tolist() == [255] * 4 + [1, 255]
    assert drawn(tmp_path, BRUSH, "2") is None


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("{id}_{class}.png", "a/1_red car.png"), ("{class}/{id}.png", "red car/a/1.png"),
        ("{id}/masks/{class}_*.png", "a/1/masks/red car_0.png"),
    ],
)  # fmt: skip
def test_other_patterns(tmp_path, pattern, file):
    write_label(tmp_path / file, mask(3))
    assert drawn(tmp_path, pattern, "a/1")[0].tolist() == [0, 0, 0, 2, 0, 0]
    assert drawn(tmp_path, pattern, "photos/a/1", images="photos") is not None


def test_one_class_may_be_given_for_all_masks(tmp_path):
    write_label(tmp_path / "1.png", mask(3))
    write_label(tmp_path / "1²3.png", mask(2))  # A digit that is no decimal.
    assert drawn(tmp_path, "{id}.png", "1", class_name="car")[0].tolist() == [0, 0, 0, 1, 0, 0]
    assert drawn(tmp_path, "{id}.png", "1²3", class_name="car")[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_what_is_refused(tmp_path):
    write_label(tmp_path / "one/1_car.png", mask(3))
    write_label(tmp_path / "one/1_bus.png", mask(3))
    with pytest.raises(InputError, match="one/1_bus.png: the mask's name fits .*, but no class of the data set; add"):
        drawn(tmp_path / "one", "{id}_{class}.png", "1")
    for annotator in (1, 2):
        write_label(tmp_path / f"two/task-1-annotation-{annotator}-by-{annotator}-tag-car-0.png", mask(3))
    with pytest.raises(InputError, match="'1' has masks of 1-by-1 and of 2-by-2, probably of two annotators; keep"):
        drawn(tmp_path / "two", BRUSH, "1")
    write_label(tmp_path / "three/1_car.png", mask(3))
    write_label(tmp_path / "three/1_red car.png", mask(3)[:, :5])
    with pytest.raises(InputError, match="1_red car.png: the mask is 5x4 pixels, another of its image 6x4; give"):
        drawn(tmp_path / "three", "{id}_{class}.png", "1")


def test_masks_of_every_make(tmp_path):
    values, expected = mask(1, 4), mask(1, 4) > 0
    white = np.full((4, 6, 3), 255, np.uint8)
    palette = Image.fromarray(values // 255)
    palette.putpalette([9, 9, 9, 70, 80, 90])
    for name, image in (
        ("255", values), ("1", values // 255), ("bits", expected), ("rgb", np.stack([values] * 3, -1)),
        ("alpha", np.dstack([white, values])), ("both", np.dstack([values] * 4)),
        ("opaque", np.dstack([np.stack([values] * 3, -1), white[..., 0]])), ("palette", palette),
    ):  # fmt: skip
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(tmp_path / f"{name}.png")
        assert (read_mask(str(tmp_path / f"{name}.png")) == expected).all(), name
    soft = values.copy()
    soft[0, 0] = 128
    for name, image, message in (
        ("soft.png", soft, "the mask has the values 0, 128, 255; save masks with 0 and 255"),
        (
            "two.png",
            np.dstack([np.stack([values] * 3, -1), mask(2)]),
            "the colours and the alpha channel hold different",
        ),
        ("mask.jpg", values, "the mask is a JPEG"),
    ):
        Image.fromarray(image).save(tmp_path / name)
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read_mask(str(tmp_path / name))
    exif = Image.Exif()
    exif[274] = 3  # turned by 180 degrees
    Image.fromarray(values[:, ::-1]).save(tmp_path / "turned.png", exif=exif)
    assert (read_mask(str(tmp_path / "turned.png")) == expected).all()
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(InputError, match="no.png: the label file cannot be decoded"):
        read_mask(str(tmp_path / "no.png"))

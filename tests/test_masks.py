"""Masks of one object from every program, formats that change values, and labels that EXIF turns."""

import contextlib
import os

import numpy as np
import pytest
from PIL import Image

from rc2l_d2.data import load_definition, read_label
from rc2l_d2.data.checks.scan import Kind, Split, scan
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.loading.mappers import check_label
from rc2l_d2.data.loading.reading import LabelLossyError, LabelValueError, read_raw_label
from rc2l_d2.errors import InputError

OBJECT = np.zeros((40, 56), bool)
OBJECT[8:24, 16:40] = True
GREY = OBJECT * np.uint8(255)
RED = np.dstack([GREY, GREY * 0, GREY * 0])
WHITE = np.full((*OBJECT.shape, 3), 255, np.uint8)


def palette(colors):
    image = Image.fromarray(OBJECT.astype(np.uint8))
    image.putpalette(colors)
    return image


MAKES = {
    "grey.png": Image.fromarray(GREY),
    "off.png": Image.fromarray(np.where(OBJECT, 253, 2).astype(np.uint8)),
    "one bit.png": Image.fromarray(OBJECT),
    "red.png": Image.fromarray(RED),
    "palette.png": palette([0, 0, 0, 128, 0, 0]),
    "alpha.png": Image.fromarray(np.dstack([WHITE, GREY])),
    "red on nothing.png": Image.fromarray(np.dstack([RED, GREY])),
    "grey alpha.png": Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA"),
    "16 bits.png": Image.fromarray(GREY.astype(np.uint16) * 257),
    "grey.jpg": Image.fromarray(GREY),
    "red.jpg": Image.fromarray(RED),
    "lossy.webp": Image.fromarray(RED),
    "lossless.webp": Image.fromarray(RED),
    "float.tif": Image.fromarray(GREY.astype(np.float32)),
}


@pytest.mark.parametrize("name", MAKES)
def test_a_threshold_reads_masks_of_every_make(tmp_path, name):
    MAKES[name].save(tmp_path / name, quality=80, lossless="less" in name)
    assert (read_label(tmp_path / name, LabelMap.of_threshold(128)) == OBJECT).mean() > 0.99
    if "." in name and not name.endswith(("jpg", "lossy.webp")):
        assert (read_label(tmp_path / name, LabelMap.of_threshold(128)) == OBJECT).all()


def test_zero_and_one_are_not_made_empty(tmp_path):
    Image.fromarray(OBJECT.astype(np.uint8)).save(tmp_path / "mask.png")
    assert (read_label(tmp_path / "mask.png", LabelMap.of_threshold(1)) == OBJECT).all()
    with pytest.raises(
        LabelValueError, match=r"mask.png: the mask holds 0 and 1, .* of 128 would make empty; set the th"
    ):
        read_label(tmp_path / "mask.png", LabelMap.of_threshold(128))


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("a.jpg", {}, "JPEG"),
        ("a.webp", {}, "lossy WebP"),
        ("a.jp2", {}, "JPEG 2000"),
        ("a.tif", {"compression": "jpeg"}, "TIFF with JPEG compression"),
    ],
)
def test_formats_that_change_values_are_refused_without_a_threshold(tmp_path, name, options, kind):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / name, **options)
    with pytest.raises(
        LabelLossyError, match=rf"{name}: the label file is a {kind}, which changes values; .*--threshold"
    ):
        read_raw_label(tmp_path / name)


def test_numbers_of_a_decoder_are_not_taken_for_16_bits(tmp_path):
    """A JPEG 2000 decoder gets the file's descriptor, which is 16 here at some time."""
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "a.jp2")
    with contextlib.ExitStack() as files:
        for _ in range(24):
            with pytest.raises(LabelLossyError, match="is a JPEG 2000"):
                read_raw_label(tmp_path / "a.jp2")
            files.enter_context(open(os.devnull))


def test_a_mask_in_alpha_and_16_bit_colours_are_refused(tmp_path):
    MAKES["alpha.png"].save(tmp_path / "alpha.png")
    with pytest.raises(LabelValueError, match=r"one colour, and its mask in the alpha channel; .*threshold: 128"):
        read_label(tmp_path / "alpha.png")
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), RED.astype(np.uint16) * 257)
    with pytest.raises(LabelValueError, match=r"deep.png: .* colours of 16 bits, which would be cut to 8"):
        read_label(tmp_path / "deep.png")


def test_threshold_in_yaml(tmp_path):
    text = "name: masks\nroot: .\nimages: a\nclasses: [back, front]\nparts: {all: {folder: '.'}}\n"

    def definition(more, name="set.yaml"):
        (tmp_path / name).write_text(text.replace("name: masks", f"name: masks_{tmp_path.name}") + more)
        return load_definition(tmp_path / name)

    (rule,) = definition("labels: b\nthreshold: 128\n").labels
    assert rule.label_map == LabelMap.of_threshold(128)
    first, second = definition("labels: [{folder: b, threshold: 1}, c]\n").labels
    assert first.label_map == LabelMap.of_threshold(1) and second.label_map is None
    for more, message in (
        ("threshold: 0\n", "a number above 0"),
        ("threshold: yes\n", "a number above 0"),
        ("threshold: 128\nlabel_map: {0: back, 1: front}\n", "without the key 'label_map'"),
    ):
        with pytest.raises(InputError, match=message):
            definition("labels: b\n" + more)


def orientated(path, image, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "turn_label", "kind"),
    [
        (1, False, None),
        (3, False, Kind.TURNED),  # equal sizes do not tell
        (6, False, Kind.SIZES_DIFFER),
        (6, True, None),  # drawn on the upright image
    ],
)
def test_exif_is_named(tmp_path, orientation, turn_label, kind):
    orientated(tmp_path / "a.jpg", np.dstack([GREY] * 3), orientation)
    label = OBJECT.astype(np.uint8)
    Image.fromarray(np.rot90(label, -1) if turn_label else label).save(tmp_path / "a.png")
    entry = {"file_name": str(tmp_path / "a.jpg"), "image_id": "a", "sem_seg_file_name": str(tmp_path / "a.png")}
    report = scan(Split("here", [entry], True, ("back", "front"), 255))
    assert list(report.problems) == ([kind] if kind else [])
    if kind:
        assert f"EXIF orientation {orientation} turns the image, and the label has none" in report.examples[kind][0][1]
    if kind is Kind.SIZES_DIFFER:
        with pytest.raises(InputError, match=r"56x40 pixels, its image .* 40x56 \(EXIF orientation 6 turns the image"):
            check_label(label, (56, 40), entry, 2, 255)


def test_a_label_turned_by_its_own_exif_is_upright(tmp_path):
    orientated(tmp_path / "a.png", OBJECT.astype(np.uint8), 6)
    assert (read_label(tmp_path / "a.png") == np.rot90(OBJECT, -1)).all()

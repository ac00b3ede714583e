"""Files of every format to arrays, against Pillow's conversions or the values that were written."""

import io
import struct

import hypothesis
import numpy as np
import pytest
from data_files import write_image, write_label
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from rc2l_d2.data import read_image, read_label
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.loading.bands import BandRule
from rc2l_d2.data.loading.reading import ImageDepthError, LabelColorError, LabelValueError, read_image_reduced
from rc2l_d2.errors import InputError

DOWN, ACROSS = np.mgrid[0:48, 0:64]
COLORS = np.stack([ACROSS * 4, DOWN * 5, 255 - ACROSS * 2 - DOWN * 2], -1).astype(np.uint8)
VOC_IDS = np.array([[0, 1, 15], [20, 255, 0]], np.uint8)
CLASSES = ["background", "thing"]


def _difference(path, expected: np.ndarray) -> int:
    image = read_image(path, "RGB")
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert (read_image(path) == image[..., ::-1]).all()
    return int(np.abs(image.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_png_of_8_bits(tmp_path, mode):
    image = Image.fromarray(COLORS).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray((ACROSS * 4).astype(np.uint8)))
    for options in ({}, {"transparency": 10}) if mode in ("L", "P") else ({},):
        image.save(tmp_path / "image.png", **options)
        assert Image.open(tmp_path / "image.png").mode == mode
        # Pillow's "RGB" drops alpha too.
        assert _difference(tmp_path / "image.png", np.asarray(image.convert("RGB"))) == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_needs_a_range(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (48, 64, channels)).astype(np.uint16)
    write_image(tmp_path / "image.png", values)  # in BGR order
    with pytest.raises(ImageDepthError, match=r"image.png: the image is a PNG with 16-bit values, .*range: \[0, 3"):
        read_image(tmp_path / "image.png")
    rule = BandRule((1, 2, 3)[:channels], ((0.0, 65535.0),))
    expected = np.repeat(values, 3, axis=2) if channels == 1 else values[..., 2::-1]
    assert (read_image(tmp_path / "image.png", "RGB", rule) == np.rint(expected / 257)).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg(tmp_path, mode):
    Image.fromarray(COLORS).convert(mode).save(tmp_path / "image.jpg", quality=95)
    expected = np.asarray(Image.open(tmp_path / "image.jpg").convert("RGB"))
    # Decoders may differ by rounding.
    assert _difference(tmp_path / "image.jpg", expected) <= 2


@pytest.mark.parametrize("as_ycck", [False, True])
def test_jpeg_of_four_inks(tmp_path, as_ycck):
    inks = np.dstack([COLORS, (ACROSS + DOWN) * 2]).astype(np.uint8)
    planes = inks
    if as_ycck:
        # Pillow writes each plane as 255 - value, so these are Y, Cb, Cr and inverted black, which is Adobe's YCCK.
        planes = np.dstack([255 - np.asarray(Image.fromarray(COLORS).convert("YCbCr")), inks[..., 3]])
    buffer = io.BytesIO()
    Image.fromarray(planes, "CMYK").save(buffer, "JPEG", quality=98, subsampling=0)
    data = bytearray(buffer.getvalue())
    if as_ycck:
        data[data.find(b"Adobe") + 11] = 2
    (tmp_path / "image.jpg").write_bytes(data)
    formula = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)) / 255
    assert _difference(tmp_path / "image.jpg", formula) <= (6 if as_ycck else 3)
    assert _difference(tmp_path / "image.jpg", np.asarray(Image.open(tmp_path / "image.jpg").convert("RGB"))) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLORS).save(tmp_path / f"image.{suffix}", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / f"image.{suffix}"))
    assert upright.size == ((64, 48) if orientation < 5 else (48, 64))
    assert _difference(tmp_path / f"image.{suffix}", np.asarray(upright)) <= 2
    if suffix == "png":  # whose rotation may follow the pixels
        data = (tmp_path / "image.png").read_bytes()
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        (tmp_path / "image.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
        assert _difference(tmp_path / "image.png", np.asarray(upright)) == 0


# The shortest edge and, of a file of 48 x 64 pixels, by how much it is divided then.
@pytest.mark.parametrize(("short_edge", "divisor"), [(6, 8), (7, 4), (12, 4), (24, 2), (25, 1), (0, 1)])
@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_a_jpeg_that_will_be_shrunk_is_decoded_smaller(tmp_path, short_edge, divisor, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLORS).save(tmp_path / "image.jpg", exif=exif, quality=95)
    whole = read_image(tmp_path / "image.jpg")
    image, size = read_image_reduced(tmp_path / "image.jpg", short_edge)
    assert size == whole.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    means = whole.reshape(size[0] // divisor, divisor, size[1] // divisor, divisor, 3).mean((1, 3))
    assert image.dtype == np.uint8 and np.abs(image - means).max() <= (4 if divisor > 1 else 0)


def test_a_size_that_does_not_divide_and_other_formats_are_decoded_whole(tmp_path):
    ramp = np.linspace(0, 255, 100).astype(np.uint8)[None, :, None].repeat(81, 0).repeat(3, 2)
    for name in ("odd.jpg", "odd.png"):
        Image.fromarray(ramp).save(tmp_path / name, **({"quality": 98} if name.endswith("jpg") else {}))
        image, size = read_image_reduced(tmp_path / name, 20)
        assert image.shape == ramp.shape and size == (81, 100)
        assert np.abs(image.astype(int) - ramp).max() <= 3
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "odd.jpg").read_bytes()[:-100])
    with pytest.raises(InputError, match="cut.jpg: the image file ends too early"):
        read_image_reduced(tmp_path / "cut.jpg", 20)


def test_palette_and_one_channel_labels_keep_their_ids(tmp_path):
    image = Image.fromarray(VOC_IDS)
    image.putpalette([value % 256 for value in range(7, 7 + 768)])
    assert image.mode == "P"
    image.save(tmp_path / "palette.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    write_label(tmp_path / "gray.png", VOC_IDS)
    write_image(tmp_path / "deep.png", VOC_IDS.astype(np.uint16))
    for name in ("palette", "transparent", "gray", "deep"):
        label = read_label(tmp_path / f"{name}.png")
        assert label.dtype == np.uint8 and (label == VOC_IDS).all(), name


def test_labels_of_one_bit_and_grey_ones_saved_as_colours(tmp_path):
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(tmp_path / "mask.png")
    assert read_label(tmp_path / "mask.png").tolist() == [[0, 1], [1, 0]]
    swapped = LabelMap.from_yaml({0: "thing", 1: "ignore"}, CLASSES, [], 255)
    assert read_label(tmp_path / "mask.png", swapped).tolist() == [[1, 255], [255, 1]]
    for mode in ("RGB", "RGBA", "LA"):
        Image.fromarray(VOC_IDS).convert(mode).save(tmp_path / "label.png")
        assert (read_label(tmp_path / "label.png") == VOC_IDS).all()
    binary = LabelMap.from_yaml({255: "thing", "other": "background"}, CLASSES, [], 255)
    assert read_label(tmp_path / "label.png", binary).tolist() == [[0, 0, 0], [0, 1, 0]]


def test_labels_in_colours(tmp_path):
    colors = np.array([[[0, 0, 0], [220, 20, 60], [220, 20, 60]]], np.uint8)
    by_color = LabelMap.from_yaml({"#000000": "background", "#dc143c": "thing"}, CLASSES, [], 255)
    alpha = np.dstack([colors, [[0, 100, 255]]]).astype(np.uint8)
    Image.fromarray(colors).save(tmp_path / "rgb.png")
    Image.fromarray(alpha).save(tmp_path / "rgba.png")
    Image.fromarray(colors).quantize(4).save(tmp_path / "palette.png")
    for name in ("rgb", "rgba", "palette"):
        assert read_label(tmp_path / f"{name}.png", by_color).tolist() == [[0, 1, 1]], name
    write_label(tmp_path / "gray.png", np.zeros((1, 2), np.uint8))
    assert read_label(tmp_path / "gray.png", by_color).tolist() == [[0, 0]]
    write_image(tmp_path / "deep.png", np.zeros((1, 2), np.uint16))
    with pytest.raises(InputError, match=r"deep\.png: .*16-bit values, but label_map lists colours"):
        read_label(tmp_path / "deep.png", by_color)
    by_value = LabelMap.from_yaml({0: "background"}, CLASSES, [], 255)
    for label_map in (None, by_value):
        with pytest.raises(LabelColorError, match=r"rgb\.png: .*'#dc143c' among them\) .* label_map"):
            read_label(tmp_path / "rgb.png", label_map)


def test_labels_that_cannot_be_used(tmp_path):
    write_label(tmp_path / "label.png", VOC_IDS)
    binary = LabelMap.from_yaml({0: "background", 1: "thing"}, CLASSES, [], 255)
    with pytest.raises(LabelValueError, match=r"label\.png: .*\(3\): 15, 20, 255; .*'other: ignore'.*\.$"):
        read_label(tmp_path / "label.png", binary)
    write_image(tmp_path / "ids.png", np.full((4, 4), 26001, np.uint16))
    with pytest.raises(LabelValueError, match=r"ids\.png.*26001.*label_map"):
        read_label(tmp_path / "ids.png")
    Image.fromarray(COLORS).convert("CMYK").save(tmp_path / "inks.tif")
    for name, message in (("none.png", "does not exist"), ("inks.tif", "type CMYK")):
        with pytest.raises(InputError, match=f"{name}.*{message}"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", ["label.jpg", "label.png"])
def test_jpeg_labels_are_refused(tmp_path, mode, name):
    Image.new(mode, (8, 8)).save(tmp_path / name, "JPEG")
    anything = LabelMap.from_yaml({0: "background", "other": "ignore"}, CLASSES, [], 255)
    for label_map in (None, anything):
        with pytest.raises(InputError, match=rf"{name}: the label file is a JPEG, which changes values; save"):
            read_label(tmp_path / name, label_map)


def _encoded(suffix: str, **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "progressive.jpg", "thumbnail.jpg", "cut_at_the_end.png"])
def test_truncated_files(tmp_path, name):
    options = {"progressive.jpg": {"progressive": True}, "thumbnail.jpg": {"exif": b"Exif\0\0" + _encoded("jpeg")}}
    data = _encoded("png" if name.endswith("png") else "jpeg", **options.get(name, {}))
    (tmp_path / "whole").write_bytes(data)
    assert read_image(tmp_path / "whole").shape == (64, 64, 3)
    kept = {"cut_at_the_end.png": len(data) - 12, "thumbnail.jpg": len(data) - 500}.get(name, len(data) // 2)
    (tmp_path / name).write_bytes(data[:kept])
    with pytest.raises(InputError, match=f"{name}: the image file ends too early; "):
        read_image(tmp_path / name)


def test_a_chunk_that_claims_more_than_the_file_holds_is_not_decoded(tmp_path, monkeypatch):
    """OpenCV would first take the memory: gigabytes for a file of some bytes."""
    data = _encoded("png")
    place = data.index(b"IDAT") - 4
    (tmp_path / "bomb.png").write_bytes(data[:place] + b"\xf0\0\0\0" + data[place + 4 :])
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(InputError, match="bomb.png: the image file ends too early; "):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_are_refused(tmp_path, suffix):
    one, other = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    one.save(tmp_path / f"one.{suffix}", lossless=True)
    one.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[other], lossless=True)
    assert read_image(tmp_path / f"one.{suffix}", "RGB")[0, 0].tolist()[1:] == [0, 0]
    with pytest.raises(InputError, match=rf"two\.{suffix}: the image has 2 frames, of which the first alone would be"):
        read_image(tmp_path / f"two.{suffix}")


@pytest.mark.parametrize(("kind", "samples", "maximum"), [
    ("P6", 3, 4095), ("P6", 3, 63), ("P5", 1, 63), ("P5", 1, 255), ("P6", 3, 255)
])  # fmt: skip
def test_netpbm_files_of_other_than_255_levels_are_refused(tmp_path, kind, samples, maximum):
    path = tmp_path / "image.ppm"
    pixels = np.full((2, 4, samples), 60, ">u2" if maximum > 255 else np.uint8)
    path.write_bytes(f"{kind} # by a camera\n#100 200 9\n4 2\n{maximum}\n".encode() + pixels.tobytes())
    if maximum == 255:
        assert (read_image(path) == 60).all()
    else:
        with pytest.raises(ImageDepthError, match=rf"the image is a P[GP]M with values up to {maximum}, not plain"):
            read_image(path)


def test_errors_name_the_file(tmp_path):
    (tmp_path / "half.png").write_bytes(_encoded("png")[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    for file in (*(tmp_path / name for name in ("half.png", "empty.jpg", "text.jpg", "missing.jpg")), tmp_path):
        for read in (read_image, read_label):
            with pytest.raises(InputError) as caught:
                read(file)
            assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="INPUT.FORMAT is 'YUV'"):
        read_image(tmp_path / "none.png", "YUV")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "webp"])
def test_damage_anywhere_raises_nothing_else_and_prints_nothing(tmp_path_factory, capfd, suffix):
    data, file = _encoded(suffix), tmp_path_factory.mktemp("damage") / "file"

    @hypothesis.settings(max_examples=40, database=None, derandomize=True, deadline=None)
    @hypothesis.given(st.integers(0, 60) | st.integers(0, len(data) - 1), st.binary(min_size=1, max_size=8))
    def read_damaged(place, block):
        file.write_bytes(data[:place] + block + data[place + len(block) :])
        for read in (read_image, read_label):
            try:
                read(file)
            except InputError:
                pass

    read_damaged()
    printed = capfd.readouterr()
    # libjpeg and libpng write to the standard error by themselves.
    assert printed.out == "" and (printed.err == "" or suffix in ("png", "jpeg"))


def test_memory_that_a_label_asks_for_and_nobody_has(tmp_path, monkeypatch):
    """Pillow reserves the length of a PNG's last chunk, 2 GB in a damaged file that a fuzz run found."""
    write_label(tmp_path / "label.png", DOWN.astype(np.uint8))

    def load_end(image):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_end", load_end)
    with pytest.raises(InputError, match="label.png: the label file is damaged or needs more memory than there is"):
        read_label(tmp_path / "label.png")


def test_images_beyond_pillows_limit(tmp_path, monkeypatch):
    write_image(tmp_path / "image.png", COLORS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "image.png").shape == (48, 64, 3)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_label(tmp_path / "image.png")


@pytest.mark.parametrize(("suffix", "place", "order"), [("png", 16, ">II"), ("jpeg", None, ">HH"), ("bmp", 18, "<ii")])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, suffix, place, order, monkeypatch):
    data = bytearray(_encoded(suffix))
    place = place or data.index(b"\xff\xc0") + 5
    assert struct.unpack_from(order, data, place) == (64, 64)
    struct.pack_into(order, data, place, 20_000, 20_000)
    (tmp_path / "bomb").write_bytes(data)
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(InputError, match=r"bomb: the image has more than 178 million pixels; cut or shrink it\.$"):
        read_image(tmp_path / "bomb")


@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images(tmp_path, suffix, size):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / "thin", format=suffix)
    image = read_image(tmp_path / "thin")
    assert image.shape == (*size, 3) and np.abs(image.astype(int) - 90).max() <= 2

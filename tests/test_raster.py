"""Windows of large files: equal to what OpenCV decodes whole; other files are refused by name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import rasterio
from data_files import small_config
from PIL import Image
from rasterio.transform import from_origin

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, read_image
from rc2l_d2.data.checks.scan import Kind, Split, scan
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.loading import mappers, raster
from rc2l_d2.data.loading.bands import BandRule
from rc2l_d2.data.loading.plain import header
from rc2l_d2.data.loading.raster import RasterFile, open_windows, read_label_window
from rc2l_d2.data.loading.reading import turned_by_exif
from rc2l_d2.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (70, 90, 3), np.uint8)  # BGR
LABEL = RNG.integers(0, 3, (70, 90), np.uint8)


def write_tiff(path, bands, **options):
    """Write a tiled TIFF of ``bands`` (C, H, W)."""
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype, "tiled": True}
    with rasterio.open(path, "w", **profile, blockxsize=16, blockysize=16, **options) as file:
        file.write(bands)
    return path


def write_image_tiff(path, **options):
    return write_tiff(path, IMAGE[..., ::-1].transpose(2, 0, 1), photometric="RGB", **{"compress": "deflate"} | options)


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(raster, "_SMALL", 1)


@pytest.mark.parametrize("name", ["tiled.tif", "lzw.tif", "a.png", "grey.png", "palette.png", "alpha.png", "grey.tif"])
def test_windows_equal_those_of_the_decoded_image(tmp_path, name):
    path, image = tmp_path / name, Image.fromarray(IMAGE[..., ::-1])
    if name.endswith(".tif") and "grey" not in name:
        write_image_tiff(path, compress=path.stem.replace("tiled", "deflate"))
    else:
        modes = {"grey": "L", "palette": "P", "alpha": "RGBA"}
        image.convert(modes.get(path.stem, "RGB")).save(path)
    whole = cv2.imread(str(path))
    assert header(path)[0] == whole.shape[:2]
    with RasterFile(path) as file:
        assert file.size == (70, 90) and file.georeference == {}
        assert np.array_equal(file.read(13, 5, 40, 61), whole[13:53, 5:66])
        means = whole[:70].reshape(35, 2, 45, 2, 3).mean(axis=(1, 3))
        if name != "palette.png":
            assert np.abs(file.read_reduced((35, 45)) - means).max() <= 1


@pytest.mark.parametrize(("bands", "options", "problem"), [
    (np.zeros((4, 32, 32), np.uint8), {"photometric": "RGB", "alpha": "no"}, "has 4 bands"),
    (np.zeros((4, 32, 32), np.uint8), {"photometric": "RGB", "alpha": "yes"}, "has 4 bands"),
    (np.zeros((2, 32, 32), np.uint8), {"photometric": "MINISBLACK", "alpha": "yes"}, "has 2 bands"),
    (np.zeros((6, 32, 32), np.uint8), {}, "has 6 bands"),
    (np.zeros((3, 32, 32), np.uint8), {"photometric": "MINISBLACK"}, "has the bands gray, undefined, undefined"),
    (np.zeros((3, 32, 32), np.uint16), {"photometric": "RGB"}, "has values of type uint16"),
    (np.zeros((1, 32, 32), np.float32), {}, "has values of type float32"),
    (np.zeros((1, 32, 32), np.uint8), {"photometric": "MINISWHITE"}, "is stored turned or inverted"),
    (np.zeros((1, 32, 32), np.uint8), {"nbits": 4}, "has values of 4 bits"),
])  # fmt: skip
def test_files_whose_meaning_is_not_plain_are_refused(tmp_path, bands, options, problem, everything_is_large):
    path = write_tiff(tmp_path / "a.tif", bands, **options)
    with pytest.raises(InputError, match=rf"a.tif: the file {problem}; save it as upright 8-bit grey or RGB"):
        RasterFile(path)
    assert open_windows(path) is None


def test_one_bit_is_read_as_black_and_white_or_refused(tmp_path):
    bits = IMAGE[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.tif")
    with RasterFile(tmp_path / "a.tif") as file:
        assert np.array_equal(file.read(0, 0, *bits.shape), cv2.imread(str(tmp_path / "a.tif")))
    Image.fromarray(bits).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a.png: the file has values of 1 bit; save it as upright 8-bit grey or RGB"):
        RasterFile(tmp_path / "a.png")


def test_a_file_of_several_pages_is_refused(tmp_path, everything_is_large):
    first, second = Image.fromarray(IMAGE), Image.fromarray(IMAGE[::-1])
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    for rule in (None, BandRule.from_yaml([1, 2, 3], None)):
        with pytest.raises(InputError, match=r"a.tif: the \w+ has 2 pages"):
            RasterFile(tmp_path / "a.tif", rule)
    assert open_windows(tmp_path / "a.tif") is None


MANY = RNG.integers(-50, 4000, (6, 70, 90)).astype(np.int16)
BANDS = {
    "three of six": (MANY, {"compress": "deflate"}, [4, 3, 2], [0, 3000]),
    "all six": (MANY, {"nodata": 77}, [1, 2, 3, 4, 5, 6], [0, 3000]),
    "one": (MANY.astype(np.float32) / 4000, {}, [5], [0.1, 0.7]),
    "8 bits": (IMAGE.transpose(2, 0, 1), {"photometric": "MINISBLACK"}, [2, 1, 3], None),
}


@pytest.mark.parametrize("name", BANDS)
def test_windows_of_a_rule_equal_those_of_the_decoded_image(tmp_path, name):
    values, options, bands, range_ = BANDS[name]
    path, rule = write_tiff(tmp_path / "a.tif", values, **options), BandRule.from_yaml(bands, range_)
    whole = read_image(path, rule=rule)
    assert header(path)[0] == (70, 90) and whole.shape[2] == rule.channels
    with RasterFile(path, rule) as file:
        assert np.array_equal(file.read(13, 5, 40, 61), whole[13:53, 5:66])
        means = whole.reshape(35, 2, 45, 2, -1).mean(axis=(1, 3))
        assert np.abs(file.read_reduced((35, 45)) - means).max() <= 1
    with pytest.raises(InputError, match=r"a.tif: the image has \d bands, but the key bands of the data set names 7"):
        RasterFile(path, BandRule.from_yaml([7, 1, 2], [0, 1]))


@pytest.mark.parametrize(
    ("name", "orientation", "expected"), [("a.tif", 6, 6), ("a.tif", 0, 1), ("a.jpg", 8, 8), ("a.png", 3, 3)]
)
def test_the_header_has_the_orientation_of_any_image(tmp_path, name, orientation, expected):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(IMAGE).save(tmp_path / name, exif=exif)
    assert header(tmp_path / name) == ((70, 90), expected)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:12])
    assert header(tmp_path / name) == header(tmp_path / "nothing") == ((0, 0), 1)


def test_a_small_file_of_a_huge_png_is_not_decoded_for_its_header(tmp_path):
    """Its pixels would take 6 TB."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 2_000_000, 1_000_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    pixels = b"IDAT" + zlib.compress(b"0")
    end = struct.pack(">I", len(pixels) - 4) + pixels + struct.pack(">I", zlib.crc32(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(start + end + b"\0\0\0\0IEND\xae\x42\x60\x82")
    assert header(path) == ((1_000_000, 2_000_000), 1) and turned_by_exif(path, path) == ""
    with pytest.raises(InputError, match="a.png"):
        read_image(path, rule=BandRule.from_yaml([1], [0, 255]))


def test_a_turned_file_is_not_read_by_windows(tmp_path, everything_is_large):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.tif", "a.jpg", "a.png"):
        Image.fromarray(IMAGE).save(tmp_path / name, exif=exif)
        for rule in (None, BandRule.from_yaml([1, 2, 3], None)):
            with pytest.raises(InputError, match="is stored turned"):
                RasterFile(tmp_path / name, rule)
    (tmp_path / "b.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(InputError, match=r"b.tif: the file cannot be read"):
        RasterFile(tmp_path / "b.tif")
    assert open_windows(tmp_path / "b.tif") is None and open_windows(tmp_path / "gone.tif") is None


def test_the_georeference_is_read(tmp_path):
    path = write_image_tiff(tmp_path / "a.tif", crs="EPSG:32633", transform=from_origin(5e5, 5e6, 0.5, 0.5))
    with RasterFile(path) as file:
        assert file.georeference["crs"].to_epsg() == 32633 and file.georeference["transform"].a == 0.5


def full_size(crop=(32, 40)):
    cfg = small_config()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (0,), "choice"
    cfg.INPUT.CROP.SIZE, cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS = list(crop), True
    return cfg


@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("crop", [(32, 40), (100, 40), (100, 120)])
def test_training_crops_at_full_size_read_only_their_window(tmp_path, monkeypatch, crop, bands):
    """Samples from windows equal those from files that are decoded whole, mirrored and padded ones too."""
    image = write_tiff(tmp_path / "a.tif", MANY) if bands else write_image_tiff(tmp_path / "a.tif")
    entry = {
        "file_name": str(image), "image_id": "a",
        "sem_seg_file_name": str(write_tiff(tmp_path / "label.tif", LABEL[None])),
        "bands": BandRule.from_yaml([4, 3, 2], [0, 3000]) if bands else None,
    }  # fmt: skip
    for mapper in (LabeledMapper(full_size(crop)), UnlabeledMapper(full_size(crop))):
        whole = [mapper(entry, np.random.default_rng(seed)) for seed in range(8)]
        with monkeypatch.context() as patch:
            patch.setattr(raster, "_SMALL", 1)
            for name in ("read_image_reduced", "read_label"):
                if crop != (100, 120):
                    patch.setattr(mappers, name, None)  # the file must not be decoded whole
            windows = [mapper(entry, np.random.default_rng(seed)) for seed in range(8)]
        for one, other in zip(whole, windows, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one if key != "file_name")


def test_label_windows_are_mapped_or_left_to_the_whole_file(tmp_path, everything_is_large):
    path = write_tiff(tmp_path / "label.tif", 10 * LABEL[None])
    known = LabelMap.from_yaml({0: "a", 10: "b", 20: "ignore"}, ["a", "b"], [], 255)
    values, size = read_label_window(path, known, (3, 7, 20, 30))
    expected = np.array([0, 1, 255], np.uint8)[LABEL[3:23, 7:37]]
    assert size == (70, 90) and np.array_equal(values, expected)
    assert read_label_window(path, LabelMap.from_yaml({0: "a"}, ["a"], [], 255), (0, 0, 9, 9)) is None
    assert read_label_window(path, None, (60, 0, 20, 9)) is None, "beyond the file"
    lossy = write_tiff(tmp_path / "jpeg.tif", LABEL[None], compress="jpeg")
    assert read_label_window(lossy, None, (0, 0, 9, 9)) is None, "the whole file is refused"
    assert read_label_window(write_image_tiff(tmp_path / "a.tif"), None, (0, 0, 9, 9)) is None, "three bands"


def test_the_check_reads_large_files_in_parts(tmp_path, monkeypatch):
    entry = {
        "file_name": str(write_image_tiff(tmp_path / "a.tif")), "image_id": "a",
        "sem_seg_file_name": str(write_tiff(tmp_path / "label.tif", LABEL[None])),
    }  # fmt: skip
    split = Split("split", [entry], True, ("a", "b", "c"), 255)
    whole = scan(split)
    monkeypatch.setattr(raster, "_SMALL", 1)
    monkeypatch.setattr(raster, "_ROWS", 32)
    monkeypatch.setattr("rc2l_d2.data.checks.scan.read_label", None)
    parts = scan(split)
    assert parts.sizes == whole.sizes == {(70, 90): 1} and not parts.problems
    assert parts.pixels.tolist() == whole.pixels.tolist() == np.bincount(LABEL.ravel()).tolist()
    write_tiff(tmp_path / "label.tif", LABEL[None, :, :80])
    assert scan(split).problems == {Kind.SIZES_DIFFER: 1}

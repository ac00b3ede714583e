"""Label files that hold something else than they seem: refused in one sentence, and read once that is settled."""

import struct

import numpy as np
import pytest
import tifffile
from data_files import write_label
from PIL import Image

from rc2l_d2.data.labels.class_names import parse_class_names
from rc2l_d2.data.labels.label_classes import name_classes, read_masks
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.labels.raw_labels import marked_no_data, read_raw_labels
from rc2l_d2.data.loading.reading import open_label, read_label, read_raw_label
from rc2l_d2.errors import InputError

LABEL = np.repeat(np.repeat(np.uint8([[0, 1, 2, 0]]), 8, axis=0), 6, axis=1)
COLORS = np.uint8([[0, 0, 0], [128, 0, 0], [0, 128, 0]])


@pytest.fixture
def files(tmp_path):
    """Write arrays or images to PNG files; returns their paths."""

    def write(*contents):
        paths = [str(tmp_path / f"{index}.png") for index in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
        return paths

    return write


def found(paths, names=""):
    return name_classes(read_raw_labels(paths), parse_class_names(names), "masks")


def with_palette(label, *colors):
    image = Image.fromarray(label)
    image.putpalette([level for color in colors for level in color])
    return image


def test_values_beside_colours(files):
    paths = files(COLORS[LABEL], LABEL, COLORS[LABEL])
    with pytest.raises(InputError, match=r"masks have colours in 2 files and greys alone \(1, 2\) in 1, as values do"):
        found(paths)
    assert found(paths, "#000000=a,#800000=b,#008000=c,#010101=d,#020202=e").names == ("a", "b", "c", "d", "e")
    # A file may have black, white and a grey of other files alone.
    grey = np.dstack([LABEL * 64] * 3)
    assert found(files(np.where(COLORS[LABEL] == 0, np.uint8(64), COLORS[LABEL]), grey[:, :12])).colors


@pytest.mark.parametrize(("channel", "name"), [(0, "red"), (1, "green"), (2, "blue")])
def test_values_in_one_channel(files, channel, name):
    label = np.zeros((*LABEL.shape, 3), np.uint8)
    label[..., channel] = LABEL
    with pytest.raises(InputError, match=f"small numbers in the {name} channel alone, as values do; save that"):
        found(files(label))
    label[..., channel] = LABEL * 64  # as of Pascal VOC's colours
    assert len(found(files(label)).names) == 3


def test_palettes_of_greys_beside_values(files, tmp_path):
    greys = with_palette(2 - LABEL, [2] * 3, [1] * 3, [0] * 3)
    paths = files(LABEL, greys)
    with pytest.raises(InputError, match=r"1.png: the label image has a palette in which index 0 is the grey 2, a val"):
        read_raw_labels(paths)
    assert read_raw_labels(files(LABEL, with_palette(LABEL, *COLORS.tolist()))).keys == (0, 1, 2)
    assert read_raw_labels(files(LABEL, with_palette(LABEL, [0] * 3, [1] * 3, [2] * 3))).keys == (0, 1, 2)
    mask = LABEL.clip(0, 1)
    assert read_raw_labels(files(mask, with_palette(mask, [0] * 3, [255] * 3))).keys == (0, 1)
    paths = files(mask * 255, with_palette(mask, [0] * 3, [255] * 3))
    with pytest.raises(InputError, match="index 1 is the grey 255, .*or give --threshold 1 if they are masks of one"):
        read_raw_labels(paths)
    assert read_masks(paths, 1, parse_class_names(""), "masks").pixels.tolist() == [[96, 96], [96, 96]]


def test_masks_of_16_bits(files):
    paths = files((LABEL.clip(0, 1) * 65535.0).astype(np.uint16))
    with pytest.raises(InputError, match="have the values 0 and 65535, as masks of one object do; give --threshold 1,"):
        found(paths)
    assert read_masks(paths, 1, parse_class_names(""), "masks").pixels.tolist() == [[96, 96]]
    assert found(paths, "0=a,65535=b").names == ("a", "b")


def test_few_objects_that_count_up_in_each_file(files):
    """As Pascal VOC's SegmentationObject, of which most files have one to four objects."""
    numbered = [np.minimum(np.repeat(np.arange(6, dtype=np.uint8)[None], 4, axis=0), last) for last in (1, 4, 2, 3)]
    large = [np.repeat(np.repeat(label, 8, axis=0), 8, axis=1) for label in numbered]
    with pytest.raises(InputError, match="masks have values that count up in each file, as labels of instances do;"):
        found(files(*large))
    assert len(found(files(*large), "0=a,1=b,2=c,3=d,4=e").names) == 5
    assert len(found(files(*large, np.repeat(np.uint8([[0, 3]]), 8, axis=0))).names) == 5  # 3 without 1 and 2


def test_few_classes_of_which_the_last_is_missing_in_a_file(files):
    label = np.repeat(np.repeat(np.arange(5, dtype=np.uint8)[None], 8, axis=0), 8, axis=1)
    assert len(found(files(*[label] * 5, label.clip(0, 3))).names) == 5


def test_numbers_of_objects_beside_a_class(files):
    """ADE20K's _seg.png: the class in red and green, objects counted in blue."""
    objects = np.repeat(np.repeat(np.uint8([[1, 2, 3]]), 8, axis=0), 8, axis=1)
    label = np.dstack([LABEL * np.uint8(10) + 10, 50 - LABEL, objects])
    with pytest.raises(InputError, match="have 6 colours, of which most differ in the blue channel alone, as numbers"):
        found(files(label))


def test_colours_off_in_one_channel_alone(files):
    """A program that changed the red of four colours: it looks like numbers of objects."""
    colors = np.uint8([[100, 0, 0], [0, 100, 0], [0, 0, 100], [100, 100, 0]])
    label = np.repeat(np.repeat(colors[None], 12, axis=0), 8, axis=1)
    label[4:8, :, 0] += 1
    label[8:, :, 0] += 2
    names = "#640000=a,#006400=b,#000064=c,#646400=d"
    with pytest.raises(InputError, match="differ in the red channel alone, .*, with --tolerance 8 if other"):
        found(files(label))
    classes = name_classes(read_raw_labels(files(label)), parse_class_names(names), "masks", tolerance=8)
    assert classes.names == ("a", "b", "c", "d") and classes.pixels.tolist() == [[96, 96, 96, 96]]


def test_no_class_of_16_bits(files):
    label = LABEL.astype(np.uint16)
    label[:1] = 65535
    with pytest.raises(InputError, match="have 65535 beside values up to 2; give --ignore 65535 if it is no class, or"):
        found(files(label))


def test_a_damaged_second_page(tmp_path):
    """Pillow raises a TypeError for a page without a width, which a fuzz run found."""
    tifffile.imwrite(tmp_path / "a.tif", np.stack([LABEL, LABEL]), photometric="minisblack")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    width = data.rfind(struct.pack("<HH", 256, 4), 0)  # tag and type of the last page's width
    width = width if width >= 0 else data.rfind(struct.pack("<HH", 256, 3))
    data[width : width + 2] = struct.pack("<H", 65000)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="a.tif: the label file cannot be decoded; replace it"):
        read_label(tmp_path / "a.tif")


@pytest.mark.parametrize("error", [TypeError, KeyError, IndexError])
def test_a_programming_error_is_no_damaged_file(files, error):
    def read(image):
        raise error("ours")

    with pytest.raises(error, match="ours"):
        open_label(*files(LABEL), read)


def test_tiffs_that_store_white_as_0(tmp_path):
    """ImageJ's inverted lookup table: Pillow would read the object as 0 and the rest as 255."""
    mask = LABEL.clip(0, 1) * np.uint8(255)
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite")
    for threshold in (None, LabelMap.of_threshold(128)):
        with pytest.raises(InputError, match="a.tif: the label image is a TIFF that stores white as 0, as ImageJ does"):
            read_label(tmp_path / "a.tif", threshold)
    tifffile.imwrite(tmp_path / "b.tif", mask, photometric="minisblack")
    assert np.array_equal(read_label(tmp_path / "b.tif"), mask)
    Image.fromarray(mask > 0).save(tmp_path / "c.tif", compression="group4")  # fax: white is 0, of 1 bit
    assert np.array_equal(read_label(tmp_path / "c.tif"), mask > 0)


def test_a_stack_of_scores_is_named(tmp_path):
    scores = np.stack([LABEL == value for value in range(3)], axis=-1).astype(np.uint8) * 255
    tifffile.imwrite(tmp_path / "a.tif", scores, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match="a.tif: the label image is a TIFF with 3 bands, 8-bit unsigned; save it with"):
        read_label(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_values_of_no_data(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for name, value in (("a", 0), ("b", 0), ("c", None)):
        profile = {"driver": "GTiff", "height": 8, "width": 24, "count": 1, "dtype": "uint8", "nodata": value}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as file:
            file.write(LABEL, 1)
    write_label(tmp_path / "d.png", LABEL)
    assert marked_no_data([str(tmp_path / name) for name in ("a.tif", "b.tif", "c.tif", "d.png")]) == {0: 2}


def test_values_of_no_data_in_other_forms(tmp_path):
    for index, text in enumerate(("0.0", "255.0", "2.55e2", "-9999", "0.5", "nan", "-inf", "none", "")):
        tifffile.imwrite(tmp_path / f"{index}.TIFF", LABEL, extratags=[(42113, "s", 0, text, True)])
    (tmp_path / "a.txt").write_text("not opened")
    assert marked_no_data(list(map(str, tmp_path.iterdir()))) == {0: 1, 255: 2, -9999: 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_under_an_eraser(files, mode):
    label = np.dstack([COLORS[LABEL], np.where(LABEL, 255, 0)]).astype(np.uint8)
    (path,) = files(Image.fromarray(label).convert(mode))
    shape = (*LABEL.shape, 3) if mode == "RGBA" else LABEL.shape
    assert read_raw_label(path).shape == shape if mode == "LA" else read_raw_label(path, True).shape == shape
    label[:2, 6:12, 3] = 0
    (path,) = files(Image.fromarray(label).convert(mode))
    with pytest.raises(
        InputError, match=r"transparent pixels, .* with the colour #(800000|262626) of visible ones; save"
    ):
        read_raw_label(path, mode == "RGBA")
    label[..., 3] = np.where(LABEL == 1, 0, 255)  # The transparent class is nowhere visible.
    (path,) = files(Image.fromarray(label).convert(mode))
    assert read_raw_label(path, mode == "RGBA")[0, 6].any()


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_pages(tmp_path):
    stack = [Image.fromarray(LABEL), Image.fromarray(LABEL[:, ::-1].copy())]
    for name, pages in (("a.tif", "2"), ("a.gif", "2"), ("a.webp", "2")):
        stack[0].save(tmp_path / name, save_all=True, append_images=stack[1:], lossless=True)
        with pytest.raises(InputError, match=f"{name}: the label image has {pages} pages, of which the first alone"):
            read_label(tmp_path / name)
    rasterio = pytest.importorskip("rasterio")
    write_label(tmp_path / "b.tif", np.repeat(np.repeat(LABEL, 8, axis=0), 8, axis=1))
    with rasterio.open(tmp_path / "b.tif", "r+") as file:
        file.build_overviews([2, 4])
    with Image.open(tmp_path / "b.tif") as image:
        assert image.n_frames == 3
    assert read_label(tmp_path / "b.tif").shape == (64, 192)

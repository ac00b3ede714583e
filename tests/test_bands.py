"""Images of every depth and number of bands: refused without a rule, and read by it as rasterio's values say."""

import numpy as np
import pytest
import tifffile
import torch
import yaml
from conftest import call_command
from data_files import write_label
from PIL import Image, TiffImagePlugin
from timm_import import timm

from rc2l_d2.commands import check, predict, quickstart, train
from rc2l_d2.data import load_dataset, load_definition, read_image, register_definition
from rc2l_d2.data.checks.check import config_splits
from rc2l_d2.data.checks.scan import Kind, Split, scan
from rc2l_d2.data.loading import plain
from rc2l_d2.data.loading.bands import BandRule
from rc2l_d2.data.loading.reading import ImageDepthError
from rc2l_d2.data.loading.transforms import color_jitter, resize_image, strong_view
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.modeling.backbones import TimmBackbone
from rc2l_d2.prediction import Segmenter, large, load_segmenter
from rc2l_d2.prediction.export import load_for_export
from rc2l_d2.prediction.video import VideoWriter

VALUES = np.random.default_rng(0).integers(0, 256, (40, 48, 16)).astype(np.uint8)
RGB = {"photometric": "rgb"}
GREY = {"photometric": "minisblack", "planarconfig": "contig"}
# name -> (values, options of tifffile, how a refusal calls the file)
FILES = {
    "near infrared": (
        VALUES[..., :4],
        RGB | {"extrasamples": ["unassalpha"]},
        "4 bands, of which 3 .*, 8-bit",
    ),
    "premultiplied": (
        VALUES[..., :4],
        RGB | {"extrasamples": ["assocalpha"]},
        "4 bands, of which 3 .*, 8-bit",
    ),
    "two bands": (VALUES[..., :2], GREY, "2 bands, 8-bit unsigned"),
    "grey colours": (VALUES[..., :3], GREY, "3 bands, 8-bit unsigned"),
    "sixteen bands": (VALUES, GREY, "16 bands, 8-bit unsigned"),
    "tiles": (np.tile(VALUES[..., :5], (4, 4, 1)), GREY | {"tile": (64, 64)}, "5 bands, 8-bit unsigned"),
    "unsigned": (VALUES[..., 0].astype(np.uint16) * 15, {}, "1 band, 16-bit unsigned"),
    "big endian": (VALUES[..., 0].astype(">u2"), {"byteorder": ">"}, "1 band, 16-bit unsigned"),
    "signed": (VALUES[..., 0].astype(np.int16) - 128, {}, "1 band, 16-bit signed"),
    "float": (VALUES[..., :3].astype(np.float32) / 255, RGB, "3 bands, 32-bit float"),
    "pages": (np.moveaxis(VALUES[..., :4], -1, 0), {"photometric": "minisblack"}, "several pages"),
    "BigTIFF": (VALUES[..., :4], GREY | {"bigtiff": True}, "4 bands, 8-bit unsigned"),
}


@pytest.mark.parametrize("name", FILES)
def test_without_a_rule_they_are_refused_by_what_they_are(tmp_path, name):
    values, options, kind = FILES[name]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values, **options)
    with pytest.raises(
        ImageDepthError, match=rf"image.tif: the image is a TIFF with {kind}.*, not plain 8-bit colour;"
    ):
        read_image(path)


def test_no_page_is_read_beyond_the_second(tmp_path, monkeypatch):
    """Each page of a damaged file may have 65,535 tags, of which sixteen pages were read."""
    loaded, load = [], TiffImagePlugin.ImageFileDirectory_v2.load
    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", lambda *args: loaded.append(1) or load(*args))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 40, 48), np.uint8), photometric="minisblack")
    assert plain.not_plain((tmp_path / "a.tif").read_bytes()) == "a TIFF with several pages" and len(loaded) == 2


def test_tags_of_a_damaged_tiff_may_be_anything(monkeypatch):
    page = {
        plain.TAG["SamplesPerPixel"]: 3,
        plain.TAG["PhotometricInterpretation"]: (2, 2),
        plain.TAG["BitsPerSample"]: 8,
    }
    for value, expected in (((1, 0), ""), (b"1", "a TIFF with several pages"), ((), "a TIFF with several pages")):
        pages = iter([page, {plain.TAG["NewSubfileType"]: value}])
        monkeypatch.setattr(plain, "tiff_pages", lambda file, pages=pages: pages)
        assert plain.not_plain(plain._TIFF_STARTS[0]) == expected


def test_plain_tiff_is_read_as_before(tmp_path):
    for name, values, options in (
        ("rgb.tif", VALUES[..., :3], RGB), ("planes.tif", np.moveaxis(VALUES[..., :3], -1, 0), RGB),
        ("big.tif", VALUES[..., :3], RGB | {"bigtiff": True}),
    ):  # fmt: skip
        tifffile.imwrite(tmp_path / name, values, **options)
        assert (read_image(tmp_path / name, "RGB") == VALUES[..., :3]).all(), name
    Image.fromarray(VALUES[..., 0]).save(tmp_path / "grey.tif", compression="tiff_lzw")
    assert (read_image(tmp_path / "grey.tif") == VALUES[..., :1]).all()


def rule(bands=None, range_=None):
    return BandRule.from_yaml(bands, range_)


@pytest.mark.parametrize("name", ["near infrared", "premultiplied", "sixteen bands", "tiles", "BigTIFF"])
def test_chosen_bands_are_the_stored_values(tmp_path, name):
    values, options, _ = FILES[name]
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    assert (read_image(tmp_path / "image.tif", "RGB", rule([4, 3, 2])) == values[..., [3, 2, 1]]).all()
    assert (read_image(tmp_path / "image.tif", rule=rule([4, 3, 2])) == values[..., [1, 2, 3]]).all()
    assert (read_image(tmp_path / "image.tif", "RGB", rule([4])) == values[..., [3, 3, 3]]).all()
    many = read_image(tmp_path / "image.tif", rule=rule([1, 2, 3, 4]))
    assert (many == values[..., [2, 1, 0, 3]]).all()


@pytest.mark.parametrize(
    ("name", "range_"),
    [("unsigned", [0, 3000]), ("big endian", [10, 200]), ("signed", [-100, 100]), ("float", [0.2, 0.8])],
)
def test_a_range_becomes_0_to_255(tmp_path, name, range_):
    values, options, _ = FILES[name]
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    low, high = range_
    expected = np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
    found = read_image(tmp_path / "image.tif", "RGB", rule(None, range_))
    assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiff_that_pillow_cannot_open_is_turned_by_its_own_tag(tmp_path, orientation):
    values = VALUES[..., :5].astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(274, 3, 1, orientation, True)], **GREY)
    expected = {1: values, 3: values[::-1, ::-1], 6: np.rot90(values, -1)}[orientation][..., :3]
    assert (read_image(tmp_path / "a.tif", "RGB", rule([1, 2, 3], [[0, 255]] * 3)) == expected).all()


def test_a_band_without_values_has_no_percentiles(tmp_path):
    values = np.stack([VALUES[..., 0].astype(np.float32), np.full(VALUES.shape[:2], np.nan, np.float32)] * 2, -1)
    tifffile.imwrite(tmp_path / "a.tif", values, **GREY)
    with pytest.raises(InputError, match=r"^Band 2 has no value but no data in 1 images, .*a\.tif among them"):
        BandRule.from_yaml([1, 2, 3], {"percentiles": [2, 98]}).resolved([str(tmp_path / "a.tif")])


@pytest.mark.filterwarnings("error")
def test_percentiles_without_named_bands(tmp_path):
    """A band without values, files of one and of three bands, and a constant one."""
    percentiles = BandRule.from_yaml(None, {"percentiles": [2, 98]})
    names = [str(tmp_path / name) for name in ("nan.tif", "grey.tif", "colour.tif")]
    tifffile.imwrite(names[0], np.full((8, 8), np.nan, np.float32))
    tifffile.imwrite(names[1], np.full((8, 8), 300, np.uint16))
    tifffile.imwrite(names[2], VALUES[..., :3].astype(np.uint16), **RGB)
    with pytest.raises(InputError, match="^Band 1 has no value"):
        percentiles.resolved(names[:1])
    with pytest.raises(InputError, match=r"grey.tif and .*colour.tif have 1 and 3 bands, .*; name the bands"):
        percentiles.resolved(names[1:])
    assert (read_image(names[1], "RGB", percentiles.resolved(names[1:2])) == 0).all()


def test_a_range_far_from_the_values_is_refused_or_found(tmp_path):
    """8-bit values, integers and reflectances from 0 to 0.3, in a range of 0 to 3000 and in one of 0 to 1."""
    for dtype, scale in ((np.uint8, 1), (np.uint16, 10), (np.float32, 0.001)):
        tifffile.imwrite(tmp_path / f"{np.dtype(dtype)}.tif", (VALUES[..., :3] * scale).astype(dtype), **RGB)
    with pytest.raises(InputError, match="uint8 values, of which a range up to 3000 would leave a dark image; give"):
        read_image(tmp_path / "uint8.tif", "RGB", rule([1, 2, 3], [0, 3000]))
    for pair, expected in (([0, 3000], "float32.tif"), ([0, 1], "uint16.tif")):
        entries = [{"file_name": str(file), "image_id": file.stem, "bands": rule([1, 2, 3], pair)}
                   for file in (tmp_path / "uint16.tif", tmp_path / "float32.tif")]  # fmt: skip
        found = scan(Split("all", entries, False, ("a", "b"), 255))
        ((file, detail),) = found.examples.pop(Kind.OUT_OF_RANGE)
        assert file.endswith(expected) and detail.endswith(" of the values") and not found.examples


def test_compression_missing_values_and_orientation(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "z.tif", "w", driver="GTiff", width=8, height=8, count=3, dtype="uint8",
                       photometric="rgb", compress="zstd") as file:  # fmt: skip
        file.write(VALUES[:8, :8, :3].transpose(2, 0, 1))
    with pytest.raises(InputError, match="z.tif: .* not an image that can be decoded; read it by the key bands"):
        read_image(tmp_path / "z.tif", "RGB")
    assert (read_image(tmp_path / "z.tif", "RGB", rule([1, 2, 3])) == VALUES[:8, :8, :3]).all()
    values = np.random.default_rng(1).integers(0, 4000, (5, 96, 128)).astype(np.float32)
    values[0, :4] = np.nan
    values[:, -4:] = -9999
    options = {"driver": "GTiff", "width": 128, "height": 96, "count": 5, "dtype": "float32", "nodata": -9999}
    with rasterio.open(tmp_path / "image.tif", "w", compress="zstd", tiled=True, **options) as file:
        file.write(values)
    pairs = [[0, 3000], [100, 200], [-50, 4000]]
    found = read_image(tmp_path / "image.tif", "RGB", rule([1, 5, 2], pairs))
    for place, (band, (low, high)) in enumerate(zip((0, 4, 1), pairs, strict=True)):
        scaled = np.clip((values[band].astype(np.float64) - low) / (high - low) * 255, 0, 255)
        scaled[np.isnan(scaled)] = 0
        scaled[-4:] = 0
        assert np.abs(found[..., place] - scaled).max() <= 0.51
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(VALUES[..., :3]).save(tmp_path / "turned.png", exif=exif)
        expected = read_image(tmp_path / "turned.png", "RGB")
        assert (read_image(tmp_path / "turned.png", "RGB", rule([1, 2, 3])) == expected).all(), orientation


def test_percentiles_are_those_of_the_first_split(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    values = np.random.default_rng(2).integers(0, 4000, (6, 40, 48, 4)).astype(np.uint16)
    for index, image in enumerate(values):
        tifffile.imwrite(folder / f"images/{index}.tif", image, **GREY)
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    content = {
        "name": f"percentiles_{tmp_path.name}", "root": str(folder), "images": "images", "image_suffix": ".tif",
        "classes": ["a", "b"], "parts": {"train": {"list": "train.txt"}, "all": {"folder": "."}},
        "bands": [4, 1, 2], "range": {"percentiles": [2, 98]},
    }  # fmt: skip
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    definition = load_definition(tmp_path / "set.yaml")
    register_definition(tmp_path / "set.yaml")
    for split in ("train", "all"):
        (used,) = {entry["bands"] for entry in load_dataset(f"{definition.name}_{split}", "none")}
        expected = [np.percentile(values[:4, ..., band], [2, 98]) for band in (3, 0, 1)]
        assert used.percentiles is None and used.bands == (4, 1, 2)
        np.testing.assert_allclose(used.ranges, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("bands", "range_", "message"),
    [
        ([0, 1, 2], None, "bands is a list of band numbers from 1"),
        ([1, 2], None, "repeat a band to use two"),
        ("4,3,2", None, "bands is a list"),
        (None, [3000, 0], "range is \\[low, high\\]"),
        (None, {"percentile": [2, 98]}, "range is"),
        ([1, 2, 3], [[0, 1], [0, 2]], "2 pairs for 3 bands"),
    ],
)
def test_refused_rules(bands, range_, message):
    with pytest.raises(ValueError, match=message):
        rule(bands, range_)


@pytest.mark.parametrize(
    ("name", "rule", "message"),
    [
        ("sixteen bands", ([17, 1, 2], None), "has 16 bands, but the key bands of the data set names 17"),
        ("sixteen bands", (None, [0, 1]), "has 16 bands; say which to use"),
        ("signed", ([1], None), "has int16 values; give the range"),
        ("pages", ([1], None), "has 4 pages"),
    ],
)
def test_files_that_a_rule_does_not_fit(tmp_path, name, rule, message):
    values, options, _ = FILES[name]
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    with pytest.raises(InputError, match=rf"image.tif: the image {message}"):
        read_image(tmp_path / "image.tif", rule=BandRule.from_yaml(*rule))


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "deep.png", "deep.tif"])
def test_one_band_becomes_three_equal_channels_as_the_sentence_says(tmp_path, name):
    """8 bits need nothing; 16 bits need what the message tells, so that every pretrained backbone takes both."""
    stored = VALUES[..., 0] if "grey" in name else VALUES[..., 0].astype(np.uint16) * 16
    Image.fromarray(stored).save(tmp_path / name)
    bands = None
    if "deep" in name:
        with pytest.raises(ImageDepthError, match=r"by bands: \[1\] for grey .*, with range: \[0, 3000\] for") as error:
            read_image(tmp_path / name)
        bands = rule([1], [0, 16 * 255])
        tiny = Segmenter.__new__(Segmenter)
        tiny.bands = None
        with pytest.raises(InputError, match=rf"image is {error.value.kind}, but the model was trained on plain 8-bit"):
            tiny.read(tmp_path / name)
    assert (read_image(tmp_path / name, rule=bands) == VALUES[..., :1]).all()


def test_more_bands_keep_their_values_where_colours_change():
    image = np.ascontiguousarray(VALUES[..., :5])
    jitter = (0.0, 0.0, 0.5, 0.25)  # saturation and hue alone
    colors = np.ascontiguousarray(image[..., :3])
    changed = color_jitter(image, jitter, np.random.default_rng(3))
    assert (changed[..., :3] == color_jitter(colors, jitter, np.random.default_rng(3))).all()
    assert (changed[..., 3:] == image[..., 3:]).all() and (changed[..., :3] != colors).any()
    # Brightness, contrast and blur change every band, as in a grey image of it.
    brighter = color_jitter(image, (0.5, 0.0, 0.0, 0.0), np.random.default_rng(3))
    single = np.repeat(image[..., 4:], 3, axis=2)
    assert (brighter[..., 4] == color_jitter(single, (0.5, 0.0, 0.0, 0.0), np.random.default_rng(3))[..., 0]).all()
    assert strong_view(image, (0.5, 0.5, 0.5, 0.25), 1.0, np.random.default_rng(1)).shape == image.shape
    for size in ((17, 19), (80, 90), (40, 48)):
        resized = resize_image(np.ascontiguousarray(VALUES), size)
        assert resized.shape == (*size, 16)
        for band in (0, 15):
            assert np.abs(resized[..., band].astype(int) - resize_image(VALUES[..., band], size)).max() <= 1


def test_the_first_convolution_is_adapted_as_timm_does():
    state = timm.create_model("test_resnet").state_dict()
    backbone = TimmBackbone.named("test_resnet", 6)
    backbone.load_pretrained(dict(state), "weights.pth")
    name = next(name for name, value in state.items() if value.dim() == 4)
    # Red, green and blue again for the bands 4 to 6; halved, so that the sum keeps its scale.
    expected = torch.cat([state[name], state[name]], dim=1) / 2
    torch.testing.assert_close(next(p for p in backbone.parameters() if p.dim() == 4).data, expected)


@pytest.mark.parametrize("backbone", [pytest.param("", marks=pytest.mark.slow), "test_resnet"])
def test_training_and_prediction_with_six_bands(tmp_path, monkeypatch, backbone):
    """The classes differ in the last band alone, of 12-bit values; a run from scratch and one from timm's weights."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    label = np.zeros((40, 48), np.uint8)
    label[:, 24:] = 1
    for index in range(12):
        values = rng.integers(0, 1000, (40, 48, 6)).astype(np.uint16)
        values[..., 5] += label * np.uint16(2500)
        folder = tmp_path / ("photos" if index < 8 else "more")
        folder.mkdir(exist_ok=True)
        tifffile.imwrite(folder / f"{index}.tif", values, **GREY)
        if index < 8:
            write_label(tmp_path / f"masks/{index}.png", label)

    def call(command, main, *arguments):
        return call_command(monkeypatch, command, main, *arguments, folder=".")

    name = f"bands_{tmp_path.name}"
    arguments = (
        "photos",
        "masks",
        "more",
        "--classes",
        "a,b",
        "--iterations",
        10,
        "--short-edge",
        32,
        "--output",
        name,
    )
    result = call("rc2l-quickstart", quickstart.main, *arguments)
    assert result.returncode == 2 and "not plain 8-bit colour (8 of 8 read): " in result.stderr
    assert result.stderr.count("4.tif (each: a TIFF with 6 bands, 16-bit unsigned)") == 1
    assert "--bands 1,2,3 --range 0,3000" in result.stderr
    options = ["--bands", "1,2,3,4,5,6", "--range", "0,4000"]
    if backbone:
        torch.save(timm.create_model(backbone).state_dict(), "weights.pth")
        options += ["--backbone", backbone, "--weights", "weights.pth"]
    result = call("rc2l-quickstart", quickstart.main, *arguments, *options)
    assert result.returncode == 0, result.stderr
    assert load_definition(f"{name}/dataset.yaml").bands == BandRule((1, 2, 3, 4, 5, 6), ((0.0, 4000.0),))
    assert call("rc2l-check", check.main, "--config-file", f"{name}/train.yaml", "--full").returncode == 0
    with pytest.raises(InputError, match="PIXEL_MEAN has 3 numbers, but .* has images of 6 bands"):
        overrides = ["MODEL.PIXEL_MEAN", [1.0, 1.0, 1.0], "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]]
        config_splits(load_config(f"{name}/train.yaml", overrides))

    settings = ("SOLVER.AMP.ENABLED", False, "TEST.EVAL_PERIOD", 0, "VIS_PERIOD", 2, "DATALOADER.NUM_WORKERS", 0)
    trained = call("rc2l-train", train.run, "--config-file", f"{name}/train.yaml", *settings)
    assert trained.returncode == 0, trained.stderr
    segmenter = load_segmenter(f"{name}/run/teacher_final.pth")
    assert segmenter.bands == BandRule((1, 2, 3, 4, 5, 6), ((0.0, 4000.0),))
    weights = next(p for p in segmenter.predictor.model.backbone.parameters() if p.dim() == 4)
    assert weights.shape[1] == 6
    assert segmenter(str(tmp_path / "more/8.tif")).labels.shape == label.shape

    # A large file, of which only windows are read, has the labels of the whole image in memory.
    expected = load_segmenter(f"{name}/run/teacher_final.pth", 32)(str(tmp_path / "more/8.tif")).labels
    monkeypatch.setattr(large, "MAX_PIXELS", 32 * 32)
    monkeypatch.setattr(Segmenter, "read", None)
    words = ("--weights", f"{name}/run/teacher_final.pth", "--input", "more/8.tif", "--labels", "--tile", 32)
    result = call("rc2l-predict", predict.main, *words)
    assert result.returncode == 0, result.stderr
    with Image.open("output/predictions/labels/8.png") as found, Image.open("output/predictions/8.png") as overlay:
        assert np.array_equal(np.array(found), expected) and overlay.mode == "RGB"
    # The report shows the first three bands; a video has none, and an exported model says what it takes.
    assert "Training report: " in trained.stdout and "image/jpeg" in (tmp_path / name / "run/report.html").read_text()
    with VideoWriter(tmp_path / "more/film.mp4", 5) as film:
        film.write(np.zeros((32, 32, 3), np.uint8))
    result = call("rc2l-predict", predict.main, *words[:2], "--input", "more/film.mp4")
    assert result.returncode == 2 and "film.mp4: the model reads bands and ranges of image files" in result.stderr
    model, information = load_for_export(f"{name}/run/teacher_final.pth")
    assert information["files"] == {"bands": [1, 2, 3, 4, 5, 6], "range": [0, 4000]} and len(model.pixel_mean) == 6

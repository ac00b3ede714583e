"""Prediction of images too large for memory: by windows at full size, or shrunk; label images with georeference."""

import json

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from conftest import call_command
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import from_origin
from torch import nn
from tqdm import tqdm

from rc2l_d2.commands import predict
from rc2l_d2.data.loading.bands import BandRule
from rc2l_d2.data.loading.raster import RasterFile, georeference_of
from rc2l_d2.data.loading.transforms import resize_label
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog
from rc2l_d2.prediction import Segmenter, large, load_segmenter, outputs, segmenter
from rc2l_d2.prediction.inputs import Input
from rc2l_d2.prediction.large import LabelFile, segment_by_windows, segment_shrunk
from rc2l_d2.prediction.outputs import ResultWriter
from rc2l_d2.prediction.segmenter import with_tile

CLASSES = 8


class Blurred(nn.Module):
    """Scores that depend on the place in the window, so that each way of averaging gives other labels."""

    def __init__(self, bands: int = 3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mixing = nn.Parameter(torch.randn(CLASSES, bands, generator=generator), requires_grad=False)
        self.windows: list[tuple[int, ...]] = []

    def forward(self, samples):
        self.windows += [tuple(sample["image"].shape) for sample in samples]
        results = []
        for sample in samples:
            image = sample["image"].float() / 255
            ramp = torch.linspace(0, 1, image.shape[-1]) * torch.linspace(0, 1, image.shape[-2])[:, None]
            scores = torch.einsum("kc,chw->khw", self.mixing, nn.functional.avg_pool2d(image, 9, 1, 4)) * (1 + ramp)
            if (size := (sample.get("height"), sample.get("width"))) != (None, None):
                scores = nn.functional.interpolate(scores[None], size=size, mode="bilinear")[0]
            results.append({"sem_seg": scores.softmax(dim=0)})
        return results


@pytest.fixture
def blurred(tiny_options):
    """A function of a tile and a rule for bands that returns a segmenter with :class:`Blurred`."""
    cfg = load_config("configs/toy/rc2l_R18.yaml", tiny_options)

    def build(tile, rule=None):
        channels = 3 if rule is None else rule.channels
        of_bands = with_tile(cfg, tile).clone()
        of_bands.defrost()
        of_bands.MODEL.PIXEL_MEAN = [0.0] * channels
        return Segmenter(Blurred(channels).eval(), of_bands, MetadataCatalog.get("tiny_val"), rule)

    return build


def image_of(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("score_bytes", [2**28, 4 * CLASSES * 32 * 170 // 3])
@pytest.mark.parametrize("size", [(131, 170), (20, 170), (131, 25), (32, 32)])
def test_windows_give_the_labels_of_a_sliding_window_over_the_whole_image(blurred, tmp_path, size, score_bytes):
    image, one = image_of(*size), blurred(32)
    Image.fromarray(image[..., ::-1]).save(tmp_path / "a.png")
    expected = one(image).labels  # by the evaluation's Predictor, with all scores in memory
    assert len(np.unique(expected)) > 2
    labels, written = np.full(size, 99, np.uint8), np.zeros(size, int)
    with RasterFile(tmp_path / "a.png") as raster:
        for top, left, block in segment_by_windows(raster, one, score_bytes):
            labels[top : top + block.shape[0], left : left + block.shape[1]] = block
            written[top : top + block.shape[0], left : left + block.shape[1]] += 1
    assert (written == 1).all() and np.array_equal(labels, expected)
    assert {shape[1:] for shape in one.predictor.model.windows} == {(min(size[0], 32), min(size[1], 32))}


@pytest.mark.parametrize("bands", [[4, 3, 2], [1, 2, 3, 4, 5, 6]])
def test_windows_of_a_multi_band_geotiff_give_the_labels_of_the_whole_image(blurred, tmp_path, monkeypatch, bands):
    values = np.concatenate([image_of(131, 170), image_of(132, 171)[:131, :170]], axis=2).astype(np.uint16) * 12
    profile = {"driver": "GTiff", "count": 6, "height": 131, "width": 170, "dtype": "uint16", "tiled": True}
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
    with rasterio.open(tmp_path / "a.tif", "w", blockxsize=16, blockysize=16, **profile, **place) as file:
        file.write(values.transpose(2, 0, 1))
    one = blurred(32, BandRule.from_yaml(bands, [0, 3000]))
    expected = one(tmp_path / "a.tif").labels
    assert len(np.unique(expected)) > 2
    monkeypatch.setattr(large, "MAX_PIXELS", 64 * 64)
    monkeypatch.setattr(Segmenter, "read", None)
    given, writer = Input(tmp_path / "a.tif", "a"), ResultWriter(tmp_path / "out", one, True, False, None)
    predict.segment_image(given, one, writer)
    with rasterio.open(tmp_path / "out/labels/a.tif") as file:
        assert np.array_equal(file.read(1), expected) and file.crs.to_epsg() == 32633


@pytest.mark.parametrize("tile", ["48", "0"])
def test_progress_counts_the_pixels_of_a_large_image(trained_run, tmp_path, monkeypatch, small_limit, tile):
    bars = []

    def shown(**settings):
        bars.append(tqdm(**settings | {"disable": False}))  # as in a terminal
        return bars[-1]

    monkeypatch.setattr(outputs, "tqdm", shown)
    image_file = tmp_path / "large.png"
    Image.fromarray(image_of(150, 210)).save(image_file)
    given = ("--weights", trained_run / "teacher_final.pth", "--input", image_file, "--output", tmp_path / "out")
    result = call_command(monkeypatch, "rc2l-predict", predict.main, *given, "--tile", tile)
    assert result.returncode == 0, result.stderr
    (bar,) = bars
    assert bar.n == bar.total == 150 * 210


def test_without_windows_an_image_is_shrunk_and_its_labels_enlarged(blurred, tmp_path, monkeypatch):
    monkeypatch.setattr(large, "MAX_PIXELS", 50 * 70)
    image, one = image_of(150, 210), blurred(0)
    Image.fromarray(image[..., ::-1]).save(tmp_path / "a.png")
    with RasterFile(tmp_path / "a.png") as raster:
        blocks = list(segment_shrunk(raster, one))
        small = one(raster.read_reduced((50, 70))).labels
    assert np.array_equal(np.concatenate([block for _, _, block in blocks]), resize_label(small, (150, 210)))


def test_tile_sets_windows_at_the_images_own_size(blurred, tiny_options, caplog):
    one = blurred(48)
    assert one.by_windows and one.predictor.window == (48, 48) and one.predictor.stride == (32, 32)
    assert one.mapper.short_edge == 0 and not blurred(0).by_windows
    assert "The model was trained on images with shorter edges of [64, 80] pixels, and --tile keeps" in caplog.text
    caplog.clear()
    full_size = [*tiny_options, "INPUT.MIN_SIZE_TRAIN", "(0,)"]
    with_tile(load_config("configs/toy/rc2l_R18.yaml", full_size), 48)
    assert not caplog.text
    with_tile(load_config("configs/toy/rc2l_R18.yaml", [*full_size, "MODEL.MASK_FORMER.CLASS_MEANS", "10.0"]), 48)
    assert "The model's classes were fitted to whole images: with --tile they may be less accurate." in caplog.text
    with pytest.raises(InputError, match="--tile is -1; give"):
        blurred(-1)


@pytest.fixture
def small_limit(monkeypatch):
    """Images of more than 64 x 64 pixels are large."""
    for module in (large, segmenter):
        monkeypatch.setattr(module, "MAX_PIXELS", 64 * 64)


@pytest.mark.parametrize(("tile", "is_large"), [("48", True), ("0", True), ("0", False)])
def test_a_geotiff_keeps_its_georeference_in_the_label_image(
    trained_run, tmp_path, monkeypatch, tile, is_large, request
):
    if is_large:
        request.getfixturevalue("small_limit")
    image, place = image_of(150, 210), {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 0.5, 0.5)}
    profile = {"driver": "GTiff", "count": 3, "height": 150, "width": 210, "dtype": "uint8", "photometric": "RGB"}
    (tmp_path / "in/deep").mkdir(parents=True)
    with rasterio.open(tmp_path / "in/deep/geo.tif", "w", compress="deflate", **profile, **place) as file:
        file.write(image[..., ::-1].transpose(2, 0, 1))
    Image.fromarray(image[..., ::-1]).save(tmp_path / "in/plain.png")
    out, weights = tmp_path / "out", trained_run / "teacher_final.pth"
    words = ("--weights", weights, "--input", tmp_path / "in", "--output", out, "--labels", "--tile", tile)
    result = call_command(monkeypatch, "rc2l-predict", predict.main, *words)
    assert result.returncode == 0 and "wrote the results of 2 files" in result.stdout, result.stderr
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {"deep/geo.png", "plain.png", "labels/deep/geo.tif", "labels/plain.png", "legend.svg"}
    with rasterio.open(out / "labels/deep/geo.tif") as file, Image.open(out / "labels/plain.png") as plain:
        labels = file.read(1)
        assert file.crs.to_epsg() == 32633 and file.transform == place["transform"] and labels.shape == (150, 210)
        assert plain.mode == "P" and np.array_equal(np.array(plain), labels)
        palette = np.array(plain.getpalette("RGB")).reshape(-1, 3)[:CLASSES].tolist()
        assert palette == [list(file.colormap(1)[index][:3]) for index in range(CLASSES)]
        assert palette == [list(color) for color in load_segmenter(str(weights)).metadata.stuff_colors]
    if tile == "48":
        monkeypatch.undo()
        assert np.array_equal(labels, load_segmenter(str(weights), 48)(image).labels)


def test_a_large_image_without_label_file_leaves_other_files_alone(blurred, tmp_path, monkeypatch):
    monkeypatch.setattr(large, "MAX_PIXELS", 64 * 64)
    Image.fromarray(image_of(131, 170)).save(tmp_path / "a.png")
    writer = ResultWriter(tmp_path / "out", blurred(32), False, False, None)
    (tmp_path / "out/a.tif").write_text("of the user")
    (tmp_path / "out/labels").mkdir()
    with RasterFile(tmp_path / "a.png") as raster:
        assert writer.draw_large("a", raster).shape == (131, 170, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "labels", "legend.svg"]
    assert (tmp_path / "out/a.tif").read_text() == "of the user"


def test_the_georeference_of_a_turned_file_is_refused(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "height": 6, "width": 8, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **place) as file:
        file.write(np.zeros((1, 6, 8), np.uint8))
    assert georeference_of(tmp_path / "a.tif")["transform"] == place["transform"]
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages[0].tags.values() if t.code > 33000]
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((6, 8), np.uint8), extratags=[*tags, (274, 3, 1, 6, True)])
    with pytest.raises(InputError, match=r"b\.tif: the file is stored turned, and its georeference is not; save"):
        georeference_of(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((6, 8), np.uint8), extratags=[(274, 3, 1, 6, True)])
    assert georeference_of(tmp_path / "c.tif") == {}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("kind", ["gcps", "rpcs"])
def test_scenes_without_a_transform_keep_their_place(tmp_path, kind):
    """Ground control points (drones, Sentinel-1) or rational polynomials (satellites) instead."""
    corners = [
        GroundControlPoint(row, column, 10 + column / 80, 50 - row / 60) for row in (0, 60) for column in (0, 80)
    ]
    names = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
    numbers = {name: 1.5 for name in ("height_off", "height_scale", "lat_off", "lat_scale", "line_off", "line_scale",
                                      "long_off", "long_scale", "samp_off", "samp_scale")}  # fmt: skip
    rpcs = RPC(**numbers, **{name: [float(place), *range(2, 21)] for place, name in enumerate(names, start=1)})
    place = {"gcps": corners, "crs": "EPSG:4326"} if kind == "gcps" else {"rpcs": rpcs}
    profile = {"driver": "GTiff", "count": 3, "height": 60, "width": 80, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **place) as file:
        file.write(np.zeros((3, 60, 80), np.uint8))
    with RasterFile(tmp_path / "a.tif") as raster:
        assert raster.georeference.keys() == georeference_of(tmp_path / "a.tif").keys() == place.keys()
        with LabelFile(tmp_path / "labels", raster.size, raster.georeference, np.zeros((2, 3), np.uint8)) as labels:
            labels.write(0, 0, np.ones((60, 80), np.uint8))
    with rasterio.open(tmp_path / "labels.tif") as file:
        points, crs = file.gcps
        if kind == "gcps":
            assert crs.to_epsg() == 4326
            assert [(p.row, p.col, p.x, p.y) for p in points] == [(p.row, p.col, p.x, p.y) for p in corners]
        else:
            assert {**file.rpcs.to_dict(), "err_bias": None, "err_rand": None} == rpcs.to_dict()


def test_what_large_images_cannot_have_is_one_sentence(trained_run, tmp_path, monkeypatch, small_limit):
    image = Image.fromarray(image_of(150, 210))
    image.save(tmp_path / "a.png")
    (tmp_path / "afile").touch()
    coco = tmp_path / "c.json"
    weights = ("--weights", trained_run / "teacher_final.pth", "--input", tmp_path / "a.png", "--output")
    for words, message in (
        ((tmp_path / "out", "--tile", "48", "--confidence"), "a.png: of an image that is read in parts neither"),
        ((tmp_path / "out", "--tile", "48", "--compare", tmp_path), "a.png: of an image that is read in parts neither"),
        ((tmp_path / "out", "--tile", "48", "--coco", coco), "leave --confidence, --coco and --compare"),
        ((tmp_path / "afile",), "afile is a file; name a folder."),
    ):
        result = call_command(monkeypatch, "rc2l-predict", predict.main, *weights, *words)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not list((tmp_path / "out").rglob("*.tif"))
    assert not (tmp_path / "out/labels").exists()
    # Without windows it is decoded whole.
    result = call_command(monkeypatch, "rc2l-predict", predict.main, *weights, tmp_path / "out", "--coco", coco)
    assert result.returncode == 0 and {entry["file_name"] for entry in json.loads(coco.read_text())} == {"a.png"}
    # Without rasterio an image that can be decoded whole is shrunk, as ever; windows need it.
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    assert call_command(monkeypatch, "rc2l-predict", predict.main, *weights, tmp_path / "out").returncode == 0
    result = call_command(monkeypatch, "rc2l-predict", predict.main, *weights, tmp_path / "out", "--tile", "48")
    assert result.returncode == 2 and "pip install 'rc2l_d2[raster]'" in result.stderr

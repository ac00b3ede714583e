"""The shipped VOC 2012 and Cityscapes configurations read and train on miniature copies of the official data."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from data_files import write_image
from PIL import Image

from rc2l_d2.data import read_label, stream_entries
from rc2l_d2.data.labels.label_map import voc_color_map
from rc2l_d2.engine import load_config

# Overrides for a small run. Losses are written every 20 iterations, when no class may have a high probability yet.
SMALLER = [
    *TINY,
    *"""
    MODEL.WEIGHTS "" MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.NORM BN
    MODEL.MASK_FORMER.NHEADS 4 INPUT.MIN_SIZE_TRAIN (48,80) SOLVER.MAX_ITER 20 DATALOADER.NUM_WORKERS 0
    MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 1 MODEL.RC2L.CONFIDENCE_THRESHOLD 0.0
    """.split(),
]
LOSSES = ("loss_ce", "loss_mask", "loss_dice", "loss_rmc", "loss_rfc", "loss_rcc", "loss_smc")


def write_voc(root: Path) -> None:
    """34 + 2 images of 72x56: a fifth with VOC's own labels, the others with SBD's; each label has all 21 classes."""
    rng = np.random.default_rng(0)
    palette = [value for color in voc_color_map(256) for value in color]
    train = [f"2007_{number:06d}" for number in range(7)]
    trainaug = train + [f"2008_{number:06d}" for number in range(27)]
    val = ["2009_000001", "2009_000002"]
    for name in trainaug + val:
        # Tiles of the 21 classes, each with a border of 255.
        label = np.kron(np.resize(rng.permutation(21), (7, 9)), np.ones((8, 8))).astype(np.uint8)
        border = np.pad(np.zeros((6, 6), bool), 1, constant_values=True)
        label[np.tile(border, (7, 9))] = 255
        image = np.array(voc_color_map(256), np.uint8)[label][..., ::-1] // 2 + rng.integers(0, 90, (56, 72, 3))
        write_image(root / f"JPEGImages/{name}.jpg", image.astype(np.uint8))
        own = name in train + val
        file = root / ("SegmentationClass" if own else "SegmentationClassAug") / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        label_image = Image.fromarray(label)  # SBD's labels have one channel and no palette.
        if own:
            label_image.putpalette(palette)
            assert label_image.mode == "P"
        label_image.save(file)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", train), ("trainaug", trainaug), ("val", val)):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))


def write_cityscapes(root: Path) -> None:
    """16 images of two cities and 2 of another, 128x64, with the downloaded label ids 0 to 33 and the other files."""
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "jena", 9), ("train", "ulm", 7), ("val", "lindau", 2)):
        for number in range(count):
            frame = f"{split}/{city}/{city}_{number:06d}_000019"
            label = np.kron(np.resize(rng.permutation(34), (8, 16)), np.ones((8, 8))).astype(np.uint8)
            image = np.repeat(label[..., None] * 5, 3, axis=2) + rng.integers(0, 80, (64, 128, 3))
            write_image(root / f"leftImg8bit/{frame}_leftImg8bit.png", image.astype(np.uint8))
            ids = root / f"gtFine/{frame}_gtFine_labelIds.png"
            ids.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(ids)
            Image.fromarray(label.astype(np.uint16) * 1000).save(root / f"gtFine/{frame}_gtFine_instanceIds.png")
            Image.fromarray(image.astype(np.uint8)).save(root / f"gtFine/{frame}_gtFine_color.png")
            (root / f"gtFine/{frame}_gtFine_polygons.json").write_text("{}")


CITYSCAPES_SIZES = """
    INPUT.CROP.SIZE (48,96) INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128
    TEST.SLIDING_WINDOW.CROP_SIZE (48,96) TEST.SLIDING_WINDOW.STRIDE (32,64)
""".split()


@pytest.fixture(
    params=[
        ("VOC2012", write_voc, "voc2012/rc2l_R101", [], (2, 32, 2), 21),
        ("cityscapes", write_cityscapes, "cityscapes/rc2l_R101_1_8", CITYSCAPES_SIZES, (2, 14, 2), 19),
    ],
    ids=["VOC2012", "cityscapes"],
)
def benchmark(request, tmp_path, monkeypatch):
    """The written folder, the command line that trains on it, the sizes of the streams, and the number of classes."""
    name, write, config, options, sizes, classes = request.param
    write(tmp_path / name)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    command = ("--config-file", f"configs/{config}.yaml", *SMALLER, *options, "OUTPUT_DIR", str(tmp_path / "out"))
    return tmp_path / name, command, sizes, classes


def test_streams(benchmark):
    _, command, sizes, classes = benchmark
    cfg = load_config(command[1], command[2:])
    streams = {stream: stream_entries(cfg, stream) for stream in ("TRAIN", "UNLABELED", "TEST")}
    assert tuple(map(len, streams.values())) == sizes
    for entry in (*streams["TRAIN"], *streams["TEST"]):
        values = np.unique(read_label(entry["sem_seg_file_name"], entry["label_map"])).tolist()
        assert values == [*range(classes), 255]


@pytest.mark.slow
def test_training(command_line, benchmark):
    folder, command, _, classes = benchmark
    result = command_line(*command)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (folder.parent / "out/metrics.json").read_text().splitlines()]
    merged = {key: value for line in lines for key, value in line.items()}
    assert all(np.isfinite(merged[loss]) for loss in LOSSES)
    assert merged["loss_smc"] > 0 and merged["loss_rmc"] > 0
    for task in ("sem_seg", "sem_seg_teacher"):
        assert 0 <= merged[f"{task}/mIoU"] <= 100
        assert sum(key.startswith(f"{task}/IoU-") for key in merged) == classes
    names = {path.name for path in folder.iterdir()}
    assert names <= {"JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets", "leftImg8bit", "gtFine"}

"""Published lists on the official folder trees, and lists named in the configuration."""

from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, TINY
from data_files import SmallTree, small_config, write_dataset, write_definition

from rc2l_d2.data import load_definition, register_definition, stream_entries
from rc2l_d2.data.datasets.splits import list_entries
from rc2l_d2.engine import load_config
from rc2l_d2.engine.dry_run import describe_plan
from rc2l_d2.errors import InputError

FRAMES = ["jena/jena_000078_000019", "ulm/ulm_000000_000019"]


def built_in(name: str):
    return load_definition(REPO / f"rc2l_d2/data/datasets/definitions/{name}.yaml")


@pytest.fixture
def cityscapes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "cityscapes"
    for frame in FRAMES:
        for file in (f"leftImg8bit/train/{frame}_leftImg8bit.png", f"gtFine/train/{frame}_gtFine_labelIds.png"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"x")
    return folder


UNIMATCH = [f"leftImg8bit/train/{f}_leftImg8bit.png gtFine/train/{f}_gtFine_labelTrainIds.png" for f in FRAMES]
U2PL = [f"leftImg8bit/train/{frame}_leftImg8bit.png" for frame in FRAMES]
CPS = [f"/images/train/{Path(f).name}.png\t/segmentation/train/{Path(f).name}_gtFine.png" for f in FRAMES]


@pytest.mark.parametrize("lines", [UNIMATCH, U2PL, CPS, [f"train/{frame}" for frame in FRAMES]])
def test_cityscapes_lists_on_the_official_tree(cityscapes, tmp_path, lines):
    (tmp_path / "list.txt").write_text("\n".join(lines))
    definition = built_in("cityscapes")
    entries = [*list_entries(definition, str(tmp_path / "list.txt"), "all", "DATASETS.TRAIN")]
    for entry, frame in zip(entries, FRAMES, strict=True):
        assert entry["image_id"] == f"train/{frame}"
        assert entry["file_name"] == str(cityscapes / f"leftImg8bit/train/{frame}_leftImg8bit.png")
        # The list's labelTrainIds do not exist; the downloaded labelIds are read through the official table.
        assert entry["sem_seg_file_name"] == str(cityscapes / f"gtFine/train/{frame}_gtFine_labelIds.png")
        assert entry["label_map"].apply(np.array([[7, 33, 0, 26]], np.uint8)).tolist() == [[0, 18, 255, 13]]
    # Train ids are used where they exist.
    label = cityscapes / f"gtFine/train/{FRAMES[0]}_gtFine_labelTrainIds.png"
    label.write_bytes(b"x")
    first, second = list_entries(definition, str(tmp_path / "list.txt"), "all", "DATASETS.TRAIN")
    assert (first["sem_seg_file_name"], first["label_map"]) == (str(label), None)
    assert second == entries[1]


def test_voc_lists_with_sbd_labels_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "VOC2012"
    for file in ("JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClassAug/b.png"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    for lines in ([f"JPEGImages/{x}.jpg SegmentationClass/{x}.png" for x in "ab"], ["a", "b"]):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        entries = list_entries(built_in("voc2012"), str(tmp_path / "list.txt"), "all", "DATASETS.TRAIN")
        assert [entry["sem_seg_file_name"] for entry in entries] == [
            str(folder / "SegmentationClass/a.png"), str(folder / "SegmentationClassAug/b.png"),
        ]  # fmt: skip
        assert [entry["label_map"] for entry in entries] == [None, None]


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A small real data set, and a labelled and an unlabelled list of its own beside it."""
    content = write_dataset(tmp_path / "data")
    register_definition(write_definition(tmp_path / "set.yaml", content))
    cfg = small_config(content["name"])
    cfg.DATASETS.LABELED_LIST, cfg.DATASETS.UNLABELED_LIST = "labeled.txt", str(tmp_path / "unlabeled.txt")
    (tmp_path / "labeled.txt").write_text("images/train_001.png labels/train_001.png\r\n")
    (tmp_path / "unlabeled.txt").write_text("/images/train_000.png\n/images/val_001.png")
    monkeypatch.chdir(tmp_path)
    return cfg


def ids(cfg, stream: str) -> list[str]:
    return [entry["image_id"] for entry in stream_entries(cfg, stream)]


def test_lists_of_the_configuration(listed):
    assert ids(listed, "TRAIN") == ["train_001"]
    assert all("sem_seg_file_name" in entry for entry in stream_entries(listed, "TRAIN"))
    assert ids(listed, "UNLABELED") == ["train_000", "val_001"]
    assert not any("sem_seg_file_name" in entry for entry in stream_entries(listed, "UNLABELED"))
    assert ids(listed, "TEST") == ["val_000", "val_001", "val_002"]
    listed.DATASETS.LABELED_LIST = listed.DATASETS.UNLABELED_LIST = ""
    assert len(ids(listed, "TRAIN")) == 4 and len(ids(listed, "UNLABELED")) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LABELED_LIST": "gone.txt"}, r"^DATASETS\.LABELED_LIST with data set 'small\d+': the list .*gone\.txt can"),
        ({"TRAIN": ()}, r"DATASETS\.LABELED_LIST is labeled\.txt, but DATASETS\.TRAIN is \(\); name there one"),
        ({"TRAIN": ("voc2012_train", "voc2012_val")}, r"LABELED_LIST is labeled\.txt, but DATASETS\.TRAIN is \('voc"),
    ],
)  # fmt: skip
def test_refused_lists_of_the_configuration(listed, change, message):
    for key, value in change.items():
        listed.DATASETS[key] = value
    with pytest.raises(InputError, match=message):
        stream_entries(listed, "TRAIN")


def test_the_plan_shows_the_lists(tmp_path):
    tree = SmallTree(tmp_path)
    tree.write("l.txt", "".join(f"images/train_{n:03d}.png labels/train_{n:03d}.png\n" for n in range(3)))
    tree.write("u.txt", "images/val_000.png\n")
    tree.config |= {f"DATASETS.{key}_LIST": f"{tree.folder}/{key[0].lower()}.txt" for key in ("LABELED", "UNLABELED")}

    def plan() -> list[str]:
        cfg = load_config("configs/toy/rc2l_R18.yaml", [*TINY, *tree.options()])
        return [" ".join(line.split()) for line in describe_plan(cfg).splitlines()]

    name, root = tree.content["name"], tree.folder
    lines = plan()
    assert f"labelled {name}_labeled listed in {root}/l.txt: 3 images, 2 a step (searched {root})" in lines
    assert f"unlabelled {name}_unlabeled listed in {root}/u.txt: 1 images, 2 a step (searched {root})" in lines
    tree.write("l.txt", "images/gone.png labels/gone.png")
    tree.config["DATASETS.TEST"] = (f"{name}_vla",)
    lines = "\n".join(plan())
    assert f"MISSING: DATASETS.LABELED_LIST with data set '{name}': 1 of 1 image files are missing" in lines
    # An unknown name is not searched for in any folder.
    assert f"MISSING: DATASETS.TEST names the data set '{name}_vla'" in lines and "(searched )" not in lines

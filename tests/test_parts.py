"""Parts of a data set: which images they hold, where the labels are, and what each label's values mean."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from data_files import small_config, write_dataset, write_definition, write_image

from rc2l_d2.data import load_definition, parts, register_definition, stream_entries
from rc2l_d2.data.label_map import LabelMap
from rc2l_d2.data.parts import list_entries, part_entries, part_images
from rc2l_d2.errors import InputError

FRAMES = ["jena/jena_000078_000019", "ulm/ulm_000000_000019"]


class Tree:
    """A data set folder of files that no test here reads, and its description."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.content = {
            "name": "tree", "root": str(folder), "images": "images", "labels": "labels", "image_suffix": ".jpg",
            "classes": ["a", "b"], "parts": {"part": {"list": "list.txt"}},
        }  # fmt: skip
        folder.mkdir()
        (folder / "images").mkdir()

    def add(self, *files: str) -> None:
        for file in files:
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).write_bytes(b"x")

    def list(self, *lines: str, name: str = "list.txt") -> Path:
        (self.folder / name).write_text("\n".join(lines))
        return self.folder / name

    def definition(self, **changes):
        return load_definition(write_definition(self.folder / "set.yaml", {**self.content, **changes}))

    def images(self, part: str = "part", **changes) -> list[str]:
        """Paths below the root."""
        return [self.below(path) for path in part_images(self.definition(**changes), part).images]

    def labels(self, wanted: str = "all", **changes) -> list[str | None]:
        entries = part_entries(self.definition(**changes), "part", wanted)
        return [self.below(entry["sem_seg_file_name"]) if "sem_seg_file_name" in entry else None for entry in entries]

    def below(self, path: str) -> str:
        return path.removeprefix(f"{self.folder}/")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "data")


# --- which images -----------------------------------------------------------------------------------------------------


def test_lists_of_ids_and_of_paths(tree):
    tree.add("images/x/a.jpg", "images/b.png", "images/c.jpg", "other/d.jpg")
    tree.list("x/a", "c")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    # The suffix with which the image exists; the first where none does.
    tree.list("x/a", "b", "gone")
    assert tree.images(image_suffix=[".jpg", ".png"]) == ["images/x/a.jpg", "images/b.png", "images/gone.jpg"]
    tree.list("images/b.png", "other/d.jpg")
    assert tree.images() == ["images/b.png", "other/d.jpg"]
    # Relative to the image folder, as people write their own.
    tree.list("x/a.jpg", "c.jpg")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    tree.list("images/x/a.jpg labels/a.png", "images/c.jpg labels/c.png")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    assert list(part_images(tree.definition(), "part").labels) == ["labels/a.png", "labels/c.png"]


def test_an_empty_list_is_an_empty_part(tree):
    tree.list("")
    for labels in ("all", "existing", "none"):
        assert len(part_entries(tree.definition(), "part", labels)) == 0


def test_duplicates_are_counted(tree):
    tree.list("a", "b", "c", "b", "a", "a")
    with pytest.raises(InputError, match=r"list\.txt names 2 images twice, '.*/images/a\.jpg' among them"):
        tree.images()
    tree.list("a/b.jpg", "c.jpg", "a//b.jpg")
    with pytest.raises(InputError, match="names 1 image twice"):
        tree.images()


def test_folders(tree):
    tree.add(
        "images/more/b.jpg", "images/more/a.JPEG", "images/more/deep/x/c.png",
        "images/more/note.txt", "images/more/d.jpg.bak", "images/more/.hidden.jpg", "images/more/.git/e.jpg",
        "images/f.jpg", "images/more/g.tif",
    )  # fmt: skip
    part = {"part": {"folder": "more"}}
    suffixes = [".jpg", ".jpeg", ".png"]
    found = ["images/more/a.JPEG", "images/more/b.jpg", "images/more/deep/x/c.png"]
    assert tree.images(parts=part, image_suffix=suffixes) == found
    # What counts as an image where the file says nothing of suffixes.
    del tree.content["image_suffix"]
    assert tree.images(parts=part) == found
    assert tree.images(parts=part, image_suffix=".PNG") == found[2:]
    assert tree.images(parts={"part": {"folder": "."}}, image_suffix=".jpg") == ["images/f.jpg", "images/more/b.jpg"]
    with pytest.raises(InputError, match=r"part 'part' names the folder .*/images/mor, which does not exist; correct"):
        tree.images(parts={"part": {"folder": "mor"}})


def test_links_are_followed_once(tree, tmp_path):
    tree.add("images/more/a.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.jpg").write_bytes(b"x")
    (tree.folder / "images/more/link").symlink_to(tmp_path / "elsewhere")
    (tree.folder / "images/more/loop").symlink_to(tree.folder / "images/more")
    (tree.folder / "images/more/link2").symlink_to(tmp_path / "elsewhere")
    (tree.folder / "images/more/c.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (tree.folder / "images/more/dead").symlink_to(tmp_path / "nowhere")
    found = tree.images(parts={"part": {"folder": "more"}})
    assert found == ["images/more/a.jpg", "images/more/c.jpg", "images/more/link/b.jpg"]


def test_patterns(tree):
    tree.add("images/1/left/a.jpg", "images/1/right/a.jpg", "images/2/left/b.jpg", "images/2/left/b.txt",
             "images/2/left/.c.jpg", "images/2/left/d.JPG", "images/left/e.jpg")  # fmt: skip
    left = ["images/1/left/a.jpg", "images/2/left/b.jpg"]
    assert tree.images(parts={"part": {"pattern": "*/left/*.jpg"}}) == left
    assert tree.images(parts={"part": {"pattern": "**/left/*"}}) == [*left, "images/2/left/d.JPG", "images/left/e.jpg"]
    assert tree.images(parts={"part": {"pattern": "nothing/*"}}) == []


def test_drawn_and_remaining_parts(tree):
    names = [f"x{number:02d}" for number in range(20)]
    tree.list(*names)
    tree.content["parts"].update(
        drawn={"of": "part", "fraction": 0.25, "seed": 0},
        rest={"of": "part", "except": "drawn"},
        tiny={"of": "rest", "fraction": 0.001, "seed": 0},
        all={"of": "part", "fraction": 1},
    )
    assert tree.images("drawn") == [f"images/x{number:02d}.jpg" for number in (1, 8, 10, 18, 19)]
    assert sorted(tree.images("rest") + tree.images("drawn")) == tree.images()
    assert len(tree.images("tiny")) == 1 and tree.images("all") == tree.images()
    # What one list calls an id and another a path is one image.
    tree.list("images/x03.jpg labels/x03.png", name="some.txt")
    tree.content["parts"].update(some={"list": "some.txt"}, others={"of": "part", "except": "some"})
    assert len(tree.images("others")) == 19 and "images/x03.jpg" not in tree.images("others")


def test_drawn_parts_keep_the_labels_of_their_list(tree):
    names = [f"x{number}" for number in range(8)]
    tree.add(*(f"images/{name}.jpg" for name in names), *(f"labels/of_{name}.png" for name in names))
    tree.list(*(f"images/{name}.jpg labels/of_{name}.png" for name in names))
    tree.content["parts"].update(
        drawn={"of": "part", "fraction": 0.5}, rest={"of": "part", "except": "drawn"}
    )
    for part in ("drawn", "rest"):
        for entry in part_entries(tree.definition(), part, "all"):
            assert entry["sem_seg_file_name"] == f"{tree.folder}/labels/of_{entry['image_id']}.png"


# --- missing files ----------------------------------------------------------------------------------------------------


def test_missing_images_are_counted_however_they_are_listed(tree):
    tree.add("images/a.jpg", "images/elsewhere/c.jpg")
    for lines in (["a", "b", "c"], [f"images/{name}.jpg" for name in "abc"], [f"{name}.jpg" for name in "abc"]):
        tree.list(*lines)
        # That another folder has an image called c does not make it the one.
        with pytest.raises(InputError, match=r"2 of 3 image files are missing: .*/images/b\.jpg, .*/images/c\.jpg;"):
            part_entries(tree.definition(), "part", "none")


def test_lists_of_another_layout_are_understood_by_name(tree, caplog):
    tree.add("images/x/a.jpg", "images/y/b.jpg", "images/y/.c.jpg", "images/z/d.jpg", "images/w/d.jpg")
    tree.list("/old/a.png\t/gt/a.png", "/old/b.jpg\t/gt/b.png")
    with caplog.at_level("WARNING"):
        entries = part_entries(tree.definition(), "part", "none")
    assert [entry["image_id"] for entry in entries] == ["x/a", "y/b"]
    assert "2 images are not where its list says" in caplog.text
    # Neither hidden files nor one of two of one name.
    tree.list("old/a.jpg", "old/c.jpg", "old/d.jpg")
    with pytest.raises(InputError, match=r"2 of 3 image files are missing: .*/old/c\.jpg, .*/old/d\.jpg;"):
        part_entries(tree.definition(), "part", "none")


def test_of_very_long_lists_some_images_are_looked_for(tree, monkeypatch, caplog):
    monkeypatch.setattr(parts, "LOOKUP_LIMIT", 9)
    monkeypatch.setattr(parts, "LOOKUP_SAMPLE", 4)  # The images 0, 3, 6 and 9.
    names = [f"x{number}" for number in range(10)]
    tree.add(*(f"images/{name}.jpg" for name in names))
    tree.list(*names)
    (tree.folder / "images/x1.jpg").unlink()
    assert len(part_entries(tree.definition(), "part", "none")) == 10
    assert "has 10 images; only 4 of them are looked for" in caplog.text
    (tree.folder / "images/x3.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 10 image files are missing: .*/x3\.jpg;"):
        part_entries(tree.definition(), "part", "none")


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_wanted_or_not(tree):
    tree.add("images/a.jpg", "images/b.jpg", "labels/b.png")
    tree.list("a", "b")
    assert tree.labels("none") == [None, None]
    assert tree.labels("existing") == [None, "labels/b.png"]
    with pytest.raises(InputError, match=r"part 'part': 1 of 2 label files are missing: .*/labels/a\.png;"):
        tree.labels("all")
    del tree.content["labels"]
    assert tree.labels("none") == tree.labels("existing") == [None, None]
    with pytest.raises(InputError, match="has no key 'labels'"):
        tree.labels("all")


def test_several_folders_suffixes_and_replacements(tree):
    tree.add("images/left/a.jpg", "images/left/b_rgb.jpg", "images/c.jpg")
    tree.add("one/left/a.png", "two/left/a_gt.png", "two/right/b_gt.png", "c.tif")
    tree.list("left/a", "left/b_rgb", "c")
    rules = [
        "one",
        {"folder": "two", "suffix": "_gt.png", "replace": {"left": "right", "_rgb": ""}},
        {"folder": ".", "suffix": ".tif"},
    ]
    assert tree.labels(labels=rules) == ["one/left/a.png", "two/right/b_gt.png", "c.tif"]
    assert tree.labels("existing", labels=rules[:2]) == ["one/left/a.png", "two/right/b_gt.png", None]


def test_each_label_has_the_map_of_its_own_rule(tree):
    # The second rule's files lie in the first one's folder and end with its suffix.
    tree.add("images/a.jpg", "images/b.jpg", "gt/a.png", "gt/b_ids.png")
    rules = [{"folder": "gt"}, {"folder": "gt", "suffix": "_ids.png", "map": {7: "a", 8: "b"}}]
    tree.list("a", "b")
    maps = [entry["label_map"] for entry in part_entries(tree.definition(labels=rules), "part", "all")]
    assert maps[0] is None and maps[1].keys == (7, 8)
    # Also where a list names them, under a name that no rule gives.
    tree.add("gt/other_ids.png", "elsewhere/x.png")
    tree.list("images/a.jpg gt/other_ids.png", "images/b.jpg elsewhere/x.png")
    definition = tree.definition(labels=rules, label_map={1: "a", 2: "b"})
    maps = [entry["label_map"].keys for entry in part_entries(definition, "part", "all")]
    assert maps == [(7, 8), (1, 2)]


def test_a_list_names_labels_where_the_data_set_has_no_rule(tree):
    tree.add("images/a.jpg", "masks/a_mask.png")
    tree.list("images/a.jpg masks/a_mask.png")
    del tree.content["labels"]
    entries = part_entries(tree.definition(label_map={0: "a", 255: "b"}), "part", "all")
    assert entries[0]["sem_seg_file_name"] == f"{tree.folder}/masks/a_mask.png"
    assert entries[0]["label_map"].apply(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    (tree.folder / "masks/a_mask.png").unlink()
    with pytest.raises(InputError, match=r"1 of 1 label files are missing: .*/masks/a_mask\.png;"):
        tree.labels()


# --- the lists of the field on the trees of the field -----------------------------------------------------------------


def built_in(name: str):
    return load_definition(REPO / f"rc2l_d2/data/definitions/{name}.yaml")


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
    first, second = list_entries(built_in("cityscapes"), str(tmp_path / "list.txt"), "all", "DATASETS.TRAIN")
    assert (first["image_id"], second["image_id"]) == tuple(f"train/{frame}" for frame in FRAMES)
    for entry, frame in ((first, FRAMES[0]), (second, FRAMES[1])):
        assert entry["file_name"] == str(cityscapes / f"leftImg8bit/train/{frame}_leftImg8bit.png")
        # The list's labelTrainIds do not exist; the downloaded labelIds are read through the official table.
        assert entry["sem_seg_file_name"] == str(cityscapes / f"gtFine/train/{frame}_gtFine_labelIds.png")
        assert entry["label_map"].apply(np.array([[7, 33, 0, 26]], np.uint8)).tolist() == [[0, 18, 255, 13]]


@pytest.mark.parametrize("lines", [UNIMATCH, U2PL, CPS])
def test_train_ids_are_taken_as_they_are_where_they_exist(cityscapes, tmp_path, lines):
    label = cityscapes / f"gtFine/train/{FRAMES[0]}_gtFine_labelTrainIds.png"
    label.write_bytes(b"x")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    first, second = list_entries(built_in("cityscapes"), str(tmp_path / "list.txt"), "all", "DATASETS.TRAIN")
    assert (first["sem_seg_file_name"], first["label_map"]) == (str(label), None)
    assert isinstance(second["label_map"], LabelMap)


def test_voc_lists_where_sbds_labels_lie_in_a_folder_of_their_own(tmp_path, monkeypatch):
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


# --- lists that the configuration names -------------------------------------------------------------------------------


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
        ({"LABELED_LIST": "gone.txt"}, r"^DATASETS\.TRAIN with data set 'small\d+': the list .*gone\.txt cannot"),
        ({"TRAIN": ()}, r"DATASETS\.LABELED_LIST is labeled\.txt, but DATASETS\.TRAIN is \(\); name there one"),
        ({"TRAIN": ("voc2012_train", "voc2012_val")}, r"LABELED_LIST is labeled\.txt, but DATASETS\.TRAIN is \('voc"),
        ({"TRAIN": ("no_such",)}, r"DATASETS\.TRAIN names the data set 'no_such', which is not registered"),
    ],
)  # fmt: skip
def test_lists_of_the_configuration_that_cannot_be_used(listed, change, message):
    for key, value in change.items():
        listed.DATASETS[key] = value
    with pytest.raises(InputError, match=message):
        stream_entries(listed, "TRAIN")


def test_the_plan_shows_the_lists(command_line, tiny_options, toy_definition, tmp_path):
    root = Path(toy_definition).parent / "data"
    names = (root / "ImageSets/Segmentation/train.txt").read_text().split()
    write_image(root / "JPEGImages/extra/z.jpg", np.zeros((64, 64, 3), np.uint8))
    try:
        (tmp_path / "l.txt").write_text("\n".join(f"JPEGImages/{n}.jpg SegmentationClass/{n}.png" for n in names[:3]))
        (tmp_path / "u.txt").write_text("JPEGImages/extra/z.jpg\n")
        lists = ("DATASETS.LABELED_LIST", f"{tmp_path}/l.txt", "DATASETS.UNLABELED_LIST", f"{tmp_path}/u.txt")
        result = command_line("--config-file", "configs/toy/rc2l_R18.yaml", "--dry-run", *tiny_options, *lists)
        assert result.returncode == 0, result.stderr
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert f"labelled tiny_labeled listed in {tmp_path}/l.txt: 3 images, 2 a step (looked at {root})" in lines
        assert f"unlabelled tiny_unlabeled listed in {tmp_path}/u.txt: 1 images, 2 a step (looked at {root})" in lines
        (tmp_path / "l.txt").write_text("JPEGImages/gone.jpg SegmentationClass/gone.png")
        result = command_line("--config-file", "configs/toy/rc2l_R18.yaml", "--dry-run", *tiny_options, *lists)
        assert "MISSING: DATASETS with data set 'tiny': 1 of 1 image files are missing" in result.stdout
    finally:
        os.remove(root / "JPEGImages/extra/z.jpg")

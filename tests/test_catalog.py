"""Data sets described by YAML files: what is read, what is refused and how, and the catalogs."""

import re

import numpy as np
import pytest
import yaml
from conftest import REPO, SHARED
from data_files import write_dataset, write_definition

from rc2l_d2.data import dataset_status, load_dataset, load_definition, register_definition
from rc2l_d2.data.datasets.description import _OPTIONAL, _REQUIRED
from rc2l_d2.data.datasets.entries import FileList
from rc2l_d2.errors import InputError
from rc2l_d2.host import DatasetCatalog, MetadataCatalog

CAMVID = SHARED / "camvid"
MSRC21 = SHARED / "msrc21"


@pytest.fixture
def content(tmp_path):
    return write_dataset(tmp_path / "data")


def test_splits_are_registered_with_the_metadata_of_evaluator_and_visualizer(tmp_path, content):
    file = write_definition(tmp_path / "set.yaml", content)
    register_definition(file)
    name = content["name"]
    entries = DatasetCatalog.get(f"{name}_train")
    assert [entry["image_id"] for entry in entries] == [f"train_{index:03d}" for index in range(10)]
    assert entries[3] == {
        "file_name": str(tmp_path / "data/images/train_003.png"),
        "image_id": "train_003",
        "sem_seg_file_name": str(tmp_path / "data/labels/train_003.png"),
        "label_map": None,
    }
    assert isinstance(entries, FileList)
    metadata = MetadataCatalog.get(f"{name}_val")
    assert metadata.stuff_classes == ["class0", "class1", "class2"]
    assert metadata.stuff_colors == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
    assert metadata.definition_file == str(file)


def test_registering_twice_and_taken_names(tmp_path, content):
    file = write_definition(tmp_path / "set.yaml", content)
    assert register_definition(file) is register_definition(tmp_path / "." / "set.yaml")
    other = write_definition(tmp_path / "other.yaml", content)
    with pytest.raises(InputError, match=r"other\.yaml.*already taken by .*set\.yaml"):
        register_definition(other)
    # Nothing is registered if one of the names is taken.
    DatasetCatalog.register("taken_val", lambda: [])
    with pytest.raises(InputError, match="'taken_val' is already taken by other code"):
        register_definition(write_definition(tmp_path / "taken.yaml", {**content, "name": "taken"}))
    assert "taken_train" not in DatasetCatalog.list()


def test_root_is_the_first_candidate_that_exists(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RC2L_TEST_DATA", str(tmp_path / "nowhere"))
    content["root"] = ["${RC2L_TEST_UNSET}/a", "${RC2L_TEST_DATA}/b", "${DETECTRON2_DATASETS}/data", "data"]
    (tmp_path / "configs").mkdir()
    file = write_definition(tmp_path / "configs/set.yaml", content)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(InputError) as caught:
        load_definition(file).root()
    for shown in ("RC2L_TEST_UNSET is not set", "nowhere/b", f"{tmp_path}/datasets/data", f"{tmp_path}/configs/data"):
        assert shown in str(caught.value)
    (tmp_path / "configs/data").mkdir()
    assert load_definition(file).root() == tmp_path / "configs/data"
    # Relative to the current directory, as in Detectron2.
    monkeypatch.setenv("DETECTRON2_DATASETS", ".")
    assert load_definition(file).root() == tmp_path / "data"


LIST = {"a": {"list": "a.txt"}}
INVALID = [
    ("classes", None, "'classes' is missing"),
    ("image_sufix", ".png", "unknown key 'image_sufix'"),
    ("classes", ["a", "b", "a"], r"different names \('a' is there twice, perhaps with other blanks\)"),
    ("classes", ["a", "car", "car "], r"different names \('car' is there twice, perhaps"),
    ("classes", ["yes", True], "quotes"),
    ("classes", [f"c{number}" for number in range(256)], "at most 255"),
    ("image_suffix", "jpg", r"with the dot: '\.jpg' or '_rgb\.jpg'"),
    ("image_suffix", [], "must be text or a list of at least one text"),
    ("label_suffix", "_mask", "with the dot"),
    ("labels", {"folder": "a", "suffix": "png"}, r"'labels\.suffix'.*with the dot: '\.png'"),
    ("images", "/photos", "names /photos, which leads out of .*a link to it there, or .* own 'root'"),
    ("images", "../photos", r"names \.\./photos, which leads out"),
    ("labels", ["a", "b/../../c"], r"'labels\[1\]' names b/\.\./\.\./c, which leads out"),
    ("parts", {"a": {"list": "/x/a.txt"}}, r"'parts\.a\.list' names /x/a\.txt, which leads out"),
    ("parts", {"a": {"folder": ".."}}, r"'parts\.a\.folder' names \.\., which leads out"),
    ("parts", {"a": {"pattern": "x/../../*"}}, r"'parts\.a\.pattern' names .*, which leads out"),
    ("ignore_value", 1, "outside the 3 class indices"),
    ("palette", [[0, 0, 0]], "3 colours"),
    ("palette", [[0, 0, 300]] * 3, "0 to 255"),
    ("parts", {}, "at least one name"),
    ("parts", ["a.txt"], "at least one name"),
    ("parts", {1: {"list": "a.txt"}}, "'parts.1'.*quotes"),
    ("parts", {"a": "a.txt"}, "'parts.a'"),
    ("parts", {"train": {"lists": "a.txt"}}, r"'parts.train'.*\{list: FILE\}"),
    ("parts", {"a": {"list": "a.txt", "folder": "a"}}, r"'parts.a'.*\{folder: FOLDER\}"),
    ("parts", {"a": {"of": "b", "fraction": 0.5}, "b": {"list": "b.txt"}}, "'parts.a.of'.*not defined above"),
    ("parts", {**LIST, "b": {"of": "a", "fraction": 8}}, "'parts.b.fraction'"),
    ("parts", {**LIST, "b": {"of": "a", "fraction": 0.5, "seed": -1}}, "'parts.b.seed'"),
    ("parts", {**LIST, "b": {"of": "a", "fraction": 0.5, "balanced": 1}}, "'parts.b.balanced'.*true or false"),
    ("parts", {**LIST, "b": {"of": "a", "except": "c"}}, "'parts.b.except'"),
    ("parts", {**LIST, "b": {"of": {"x": 1}, "fraction": 0.5}}, "'parts.b.of'"),
    ("labels", {"suffix": ".png"}, "must be a folder, or"),
    ("labels", ["a", {"folder": "b", "sufix": ".png"}], r"'labels\[1\]'.*must be a folder, or"),
    ("labels", {"folder": "a", "replace": {"x": 1}}, "must be a folder, or"),
    ("labels", {"folder": 7}, "text"),
    ("labels", {"folder": "a", "map": {0: "class9"}}, r"'labels\.map'.*'class9', which is no class"),
    ("label_map", {0: "class9"}, "'class9', which is no class"),
    ("name", 5, "quotes"),
    ("root", [None], "text"),
]


@pytest.mark.parametrize(("key", "value", "message"), INVALID)
def test_invalid_values(tmp_path, content, key, value, message):
    content[key] = value
    if value is None:
        del content[key]
    with pytest.raises(InputError, match=message) as caught:
        load_definition(write_definition(tmp_path / "set.yaml", content))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/set.yaml: ") and key in text and "\n" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a, b", "not valid YAML near line 1"),
        ("name: a\nparts:\n  x: {}\n  x: {}\n", r"near line 4 \(the key 'x' is there a second time\); remove one"),
        ("name: a\nroot: b\nname: c\n", r"near line 3 \(the key 'name' is there a second time"),
        ("!!map [1]", "not valid YAML"),
        ("root: [${DETECTRON2_DATASETS}/a, b]", "in quotes"),
        ("- 1\n", "keys and values"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_files_that_are_not_yaml_or_not_safe(tmp_path, text, message):
    (tmp_path / "set.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_definition(tmp_path / "set.yaml")


def test_status_never_raises(tmp_path, content):
    register_definition(write_definition(tmp_path / "set.yaml", content))
    name = f"{content['name']}_train"
    status = dataset_status(name, labels="all")
    assert (status.found, status.num_images, status.problem) == (True, 10, None)
    assert status.paths == (str(tmp_path / "data"),)
    (tmp_path / "data/images/train_001.png").unlink()
    status = dataset_status(name)
    assert (status.found, status.num_images) == (False, None)
    assert "1 of 10 image files" in status.problem
    (tmp_path / "data").rename(tmp_path / "moved")
    assert str(tmp_path / "data") in dataset_status(name).problem
    assert "not registered" in dataset_status("no_such_set").problem


def test_data_sets_of_other_code(content):
    name = content["name"]
    DatasetCatalog.register(f"{name}_other", lambda: [{"file_name": "a.png", "sem_seg_file_name": "b.png"}])
    DatasetCatalog.register(f"{name}_boxes", lambda: [{"file_name": "a.png", "annotations": []}])
    assert load_dataset(f"{name}_other", labels="all")[0]["image_id"] == "a.png"
    with pytest.raises(InputError, match="no semantic labels for 1 images"):
        load_dataset(f"{name}_boxes", labels="all")


def test_built_in_voc_and_cityscapes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    voc, cityscapes = MetadataCatalog.get("voc2012_labeled_1_16"), MetadataCatalog.get("cityscapes_labeled_1_8")
    assert str(tmp_path / "VOC2012") in dataset_status("voc2012_val").paths
    # The colours of potted plant, person and TV monitor in VOC's own labels.
    assert [voc.stuff_colors[index] for index in (16, 15, 20)] == [[0, 64, 0], [192, 128, 128], [0, 64, 128]]
    assert len(voc.stuff_classes) == 21 and len(cityscapes.stuff_colors) == 19
    train_ids, label_ids = (rule.label_map for rule in load_definition(cityscapes.definition_file).labels)
    # cityscapesScripts' table: label ids with a train id, in the order of the train ids.
    with_train_id = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = [with_train_id.index(value) if value in with_train_id else 255 for value in range(34)]
    assert train_ids is None and dict(zip(label_ids.keys, label_ids.targets, strict=True)) == dict(enumerate(expected))
    # Detectron2 itself registers names that begin with these.
    built_in = [name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("definition_file")]
    assert not [name for name in built_in if name.startswith(("cityscapes_fine_", "voc_2007_", "voc_2012_"))]


@pytest.mark.skipif(not CAMVID.is_dir(), reason="shared/camvid is not beside the checkout")
def test_camvid_is_complete(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    register_definition(REPO / "configs/camvid/dataset.yaml")
    expected = {"train": 367, "val": 101, "labeled_1_8": 46, "unlabeled_1_8": 321, "labeled_1_30": 12}
    assert {split: len(load_dataset(f"camvid_{split}", "all")) for split in expected} == expected
    assert MetadataCatalog.get("camvid_val").stuff_classes == (CAMVID / "classes.txt").read_text().split()


@pytest.mark.skipif(not MSRC21.is_dir(), reason="shared/msrc21 is not beside the checkout")
def test_msrc21_is_complete_and_its_held_out_third_is_apart(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    register_definition(REPO / "configs/msrc21/dataset.yaml")
    expected = {"train": 276, "val": 59, "labeled_1_8_seed0": 34, "labeled_1_4_seed2": 69, "design_labeled_seed1": 34}
    assert {split: len(load_dataset(f"msrc21_{split}", "all")) for split in expected} == expected
    parts = ("held_out", "design_labeled_seed1", "design_unlabeled_seed1")
    files = [entry["file_name"] for split in parts for entry in load_dataset(f"msrc21_{split}", "all")]
    assert len(files) == len(set(files)) == 276


def test_readme_example_is_a_definition(tmp_path):
    text = (REPO / "datasets/README.md").read_text()
    block = text.split("```yaml\n")[1].split("```")[0]
    example = yaml.safe_load(block)
    definition = load_definition(write_definition(tmp_path / "set.yaml", example))
    # It shows every key, some in comments, and every kind of split.
    assert {*example, *re.findall(r"^# (\w+):", block, re.MULTILINE)} == set(_REQUIRED + _OPTIONAL)
    kinds = {frozenset(split) - {"seed", "balanced"} for split in definition.splits.values()}
    forms = [["list"], ["folder"], ["pattern"], ["shards"], ["of", "fraction"], ["of", "except"]]
    assert kinds == set(map(frozenset, forms))
    (rule,) = definition.labels
    assert rule.path("a/b") == "masks/a/b.png"
    assert rule.label_map.apply(np.array([[0, 1, 2, 3, 4]], np.uint8)).tolist() == [[255, 0, 1, 2, 1]]
    # The text's example of a rule.
    found = re.search(r"`(\{folder: scenes[^`]*)` finds\s+`([^`]*)` for the id `([^`]*)`", text)
    example.update(labels=[yaml.safe_load(found[1])])
    (rule,) = load_definition(write_definition(tmp_path / "set.yaml", example)).labels
    assert rule.path(found[3]) == found[2]
    assert rule.label_map.apply(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]

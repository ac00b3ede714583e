"""JSON files that name classes: their forms, and which of them say what the values of labels mean."""

import json

import numpy as np
import pytest
from data_files import write_dataset, write_definition
from PIL import Image

from rc2l_d2.data import load_definition
from rc2l_d2.data.labels.class_json import COLORS, LIST, NUMBERS, VALUES, is_json_table, read_json_rows
from rc2l_d2.data.labels.class_names import ClassNames, parse_class_names
from rc2l_d2.data.labels.class_tables import read_class_table
from rc2l_d2.data.labels.raw_labels import read_raw_labels
from rc2l_d2.data.labels.tables_beside import names_beside
from rc2l_d2.errors import InputError

BY_VALUE = {0: "road", 1: "sky", 2: "ignore"}
BY_COLOR = {"#ff0000": "road", "#0ac807": "sky", "#000000": "ignore"}
# Hugging Face's models, Supervisely's projects, Mapillary's configuration, Label Studio's exports.
HUGGING_FACE = {"id2label": {"0": "road", "1": "sky", "2": "ignored"}, "label2id": {"road": 0, "sky": 1, "ignored": 2}}
SUPERVISELY = {
    "classes": [
        {"title": "road", "shape": "bitmap", "color": "#FF0000", "geometry_config": {}, "id": 7},
        {"title": "sky", "shape": "polygon", "color": "#0AC807", "id": 9},
        {"title": "ignored", "shape": "any", "color": "#000000", "id": 8},
    ],
    "tags": [],
}
MAPILLARY = {"labels": [{"name": n, "readable": n, "color": c, "evaluate": True} for n, c in
                        (("road", [255, 0, 0]), ("sky", [10, 200, 7]), ("ignored", [0, 0, 0, 255]))]}  # fmt: skip
LABEL_STUDIO = {"categories": [{"id": 0, "name": "road"}, {"id": 1, "name": "sky"}], "info": {"year": 2026}}


def written(path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "kind", "table"),
    [
        ("id2label.json", HUGGING_FACE["id2label"], VALUES, BY_VALUE),
        ("label2id.json", HUGGING_FACE["label2id"], VALUES, BY_VALUE),
        ("config.json", {"model_type": "segformer", **HUGGING_FACE}, VALUES, BY_VALUE),
        ("classes.json", {"void": -1, "road": 0, "sky": 1}, VALUES, {0: "road", 1: "sky"}),
        ("meta.json", SUPERVISELY, COLORS, BY_COLOR),
        ("config.json", MAPILLARY, COLORS, BY_COLOR),
        ("palette.json", {"road": [255, 0, 0], "sky": "#0AC807", "ignored": [0, 0, 0]}, COLORS, BY_COLOR),
        ("Colors.JSON", {"#FF0000": "road", "#0ac807": "sky", "#000000": "ignored"}, COLORS, BY_COLOR),
        ("classes.json", ["road", "sky"], LIST, {0: "road", 1: "sky"}),
        ("class_names.json", {"classes": ["road", "sky"]}, LIST, {0: "road", 1: "sky"}),
        ("labels.json", {"labels": [{"name": "road"}, {"name": "sky"}]}, LIST, {0: "road", 1: "sky"}),
        ("notes.json", LABEL_STUDIO, NUMBERS, {0: "road", 1: "sky"}),
    ],
)
def test_forms(tmp_path, name, content, kind, table):
    path = written(tmp_path / name, content)
    assert is_json_table(path) and read_json_rows(path)[0] == kind
    assert [*read_class_table(path).items()] == [*table.items()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "classes.json: the class table is not valid JSON"),
        ({"0": [255, 0, 0], "1": [0, 255, 0]}, "has no known form; write it as"),
        ([[255, 0, 0], [0, 255, 0]], "has no known form"),
        ({"0": {"name": "road"}}, "has no known form"),
        ({"road": [255, 0, 300]}, "has no known form"),
        ({"road": 1.5}, "has no known form"),
        ({"road": True}, "has no known form"),
        ([{"name": "road"}, "sky"], "has no known form"),
        ([], "has no known form"),
        ({"a.jpg": 0, "b.JPG": 1}, "has no known form"),
        ({"road": 0, "sky": 0}, "a value, a colour or a name twice in 'sky: 0'"),
        ('{"road": 0, "road": 1}', "the class table has 'road' twice; correct it"),
    ],
)
def test_refused_files(tmp_path, content, message):
    path = written(tmp_path / "classes.json", content)
    assert is_json_table(path), "its name says that it is one"
    with pytest.raises(InputError, match=message):
        read_class_table(path)
    if "twice in" not in message:
        for name in ("meta.json", "a.json"):
            assert not is_json_table(written(tmp_path / name, content)), "another program's"


@pytest.mark.parametrize("content", [{"width": 512, "height": 512}, {"seed": 0, "version": 1}])
def test_settings_are_no_class_table(tmp_path, content):
    assert not any(is_json_table(written(tmp_path / name, content)) for name in ("meta.json", "config.json"))


@pytest.fixture
def label(tmp_path) -> str:
    path = tmp_path / "masks/a.png"
    path.parent.mkdir()
    Image.fromarray(np.repeat(np.uint8([[0, 1]]), 4, axis=0)).save(path)
    return str(path)


def named(label: str, given: str = ""):
    return names_beside(read_raw_labels([label]), [label], label.removesuffix("/a.png"), parse_class_names(given))


def test_values_name_labels_and_the_rest_is_asked_about(label, tmp_path):
    path = written(tmp_path / "notes.json", LABEL_STUDIO)
    with pytest.raises(InputError, match="notes.json names 2 classes, .*give --classes '0=road,1=sky' if the labels h"):
        named(label)
    certain = written(tmp_path / "id2label.json", {"0": "road", "1": "sky"})
    assert named(label)[1] == ClassNames((), {0: "road", 1: "sky"}, False, certain), "it says the same as the notes"
    written(tmp_path / "id2label.json", {"0": "sky", "1": "road"})
    with pytest.raises(InputError, match="id2label.json and .*notes.json name different classes"):
        named(label)
    written(tmp_path / "id2label.json", ["sky", "road"])
    with pytest.raises(InputError, match="id2label.json and .*notes.json name different classes"):
        named(label)
    (tmp_path / "notes.json").unlink()
    with pytest.raises(InputError, match="give --classes 'sky,road' if its first class is the value 0"):
        named(label)
    written(tmp_path / "id2label.json", SUPERVISELY)
    with pytest.raises(InputError, match="but not which values of the labels in "):
        named(label)
    assert named(label, "0=a,1=b")[2] == (f"Not used, as --classes names the classes: {certain}.",)
    assert path != certain


def test_a_yaml_file_uses_them(tmp_path):
    content = write_dataset(tmp_path / "data") | {"classes": ["road", "sky", "background"]}
    written(tmp_path / "data/classes.json", {"road": 1, "sky": 2, "background": 0})
    definition = load_definition(write_definition(tmp_path / "set.yaml", content | {"label_map": "classes.json"}))
    assert definition.labels[-1].label_map.keys == (1, 2, 0)

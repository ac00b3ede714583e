"""Class tables beside label images: used where they name colours or values, else asked about; and contradictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import call_command
from data_files import write_dataset, write_definition, write_image, write_label
from PIL import Image

from rc2l_d2.commands import check, quickstart
from rc2l_d2.data import load_definition
from rc2l_d2.data.checks.tables import contradicting_tables
from rc2l_d2.data.labels.class_names import ClassNames, parse_class_names
from rc2l_d2.data.labels.raw_labels import read_raw_labels
from rc2l_d2.data.labels.tables_beside import names_beside, tables_beside
from rc2l_d2.errors import InputError

COLORS = np.array([[10, 200, 7], [0, 0, 0], [255, 0, 0]], np.uint8)
LABEL = np.repeat(np.uint8([[0, 1, 2]]), 4, axis=0)
DICT = "name,r,g,b\nroad,255,0,0\nsky,10,200,7\nvoid,0,0,0\n"
DARWIN = "class_name,class_color\nroad,255 0 0\nsky,10 200 7\nvoid,0 0 0\n"
BY_COLOR = {0xFF0000: "road", 0x0AC807: "sky", 0x000000: "void"}


@pytest.fixture
def labels(tmp_path):
    """A function that writes one label as values, colours or palette indices, and a table; returns the label's path."""

    def write(form, name, text):
        (tmp_path / "masks").mkdir(exist_ok=True)
        path = tmp_path / "masks/a.png"
        image = Image.fromarray(COLORS[LABEL] if form == "colours" else LABEL)
        if form == "palette":
            image.putpalette(COLORS.tobytes())
        image.save(path)
        (tmp_path / name).write_text(text)
        return str(path)

    return write


def named(path, given=""):
    return names_beside(read_raw_labels([path]), [path], path.removesuffix("/a.png"), parse_class_names(given))


@pytest.mark.parametrize("form", ["colours", "palette"])
@pytest.mark.parametrize(("name", "text"), [
    ("class_dict.csv", DICT), ("masks/class_dict_seg.csv", DICT.replace(",", ", ")), ("masks/x.csv", DARWIN),
    ("labelmap.txt", "road:255,0,0::\nsky:10,200,7::\nvoid:0,0,0::\n"),
])  # fmt: skip
def test_tables_of_colours_name_colours(labels, tmp_path, form, name, text):
    raw, names, notes = named(labels(form, name, text))
    assert raw.colors and raw.keys == (0x000000, 0x0AC807, 0xFF0000)
    assert names == ClassNames((), BY_COLOR, True, str(tmp_path / name)) and list(names.by_key) == list(BY_COLOR)
    assert notes == (f"The classes have their names from {tmp_path / name}.",)


def test_tables_of_values_name_values(labels, tmp_path):
    raw, names, _ = named(labels("values", "masks/_classes.csv", "Pixel Value, Class\n0, road\n1, sky\n2, void\n"))
    assert raw.keys == (0, 1, 2) and names.by_key == {0: "road", 1: "sky", 2: "void"} and not names.colors


@pytest.mark.parametrize(
    ("form", "name", "text", "classes"),
    [
        ("values", "class_dict.csv", DICT, "'road,sky,void'"),
        ("values", "classes.txt", "road\nsky\n", "'road,sky'"),
        ("values", "masks/labels.txt", '__ignore__\n_background_\n"a", b\n', '\'_background_,"""a"", b"\''),
        ("colours", "masks/class_names.txt", "road\nsky\n", "'road,sky'"),
    ],
)
def test_other_tables_are_asked_about_unless_names_are_given(labels, tmp_path, form, name, text, classes):
    path = labels(form, name, text)
    with pytest.raises(InputError) as error:
        named(path)
    assert f"{tmp_path / name} names " in str(error.value) and f"give --classes {classes} if its" in str(error.value)
    raw, names, notes = named(path, "0=a,1=b,2=c")
    assert names == parse_class_names("0=a,1=b,2=c") and not raw.colors == (form == "values")
    assert notes == (f"Not used, as --classes names the classes: {tmp_path / name}.",)


def test_numbers_of_a_list_are_asked_about(labels, tmp_path):
    """COCO-Stuff's labels.txt numbers its classes from 1, its labels from 0."""
    path = labels("values", "labels.txt", "0: unlabeled\n1: person\n2: car\n")
    with pytest.raises(InputError, match="give --classes '0=unlabeled,1=person,2=car' if the labels have its numbers,"):
        named(path)


def test_colours_of_settings_further_up(labels, tmp_path):
    """Mapillary Vistas: config_v2.0.json above training/v2.0/labels. A model's config.json there counts for nothing."""
    folder = tmp_path / "training/v2.0/labels"
    folder.mkdir(parents=True)
    path = str(Path(labels("palette", "x.txt", "")).rename(folder / "a.png"))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "cow"}}))
    assert not named(path)[1]
    for version, names in (("1.2", ("sky", "void", "street")), ("2.0", ("sky", "void", "road"))):
        rows = [{"name": name, "color": color} for name, color in zip(names, COLORS.tolist(), strict=True)]
        (tmp_path / f"config_v{version}.json").write_text(json.dumps({"labels": rows, "version": version}))
    raw, names, _ = named(path)
    assert raw.colors and names.by_key == BY_COLOR and names.file == str(tmp_path / "config_v2.0.json")
    (tmp_path / "training/v1.2").mkdir()
    folder = folder.rename(tmp_path / "training/v1.2/labels")
    assert named(str(folder / "a.png"))[1].by_key == BY_COLOR | {0xFF0000: "street"}
    folder = folder.rename(tmp_path / "training/labels")
    with pytest.raises(InputError, match=r"config_v1.2.json and .*config_v2.0.json name different classes; say which"):
        named(str(folder / "a.png"))


def test_settings_further_up_are_no_table_of_values(labels, tmp_path):
    path = labels("values", "x.txt", "")
    folder = tmp_path / "set/train/masks"
    folder.mkdir(parents=True)
    path = str(Path(path).rename(folder / "a.png"))
    (tmp_path / "set/config.json").write_text(json.dumps({"road": [255, 0, 0], "sky": [10, 200, 7], "void": [0, 0, 0]}))
    assert not named(path)[0].colors and not named(path)[1]
    image = Image.fromarray(LABEL)
    image.putpalette([1, 2, 3] * 3)  # not the table's
    image.save(path)
    assert not named(path)[1]
    image.putpalette(COLORS.tobytes())
    image.save(path)
    assert named(path)[1].by_key == BY_COLOR


def test_tables_that_differ_are_refused_and_other_files_are_none(labels, tmp_path):
    path = labels("colours", "class_dict.csv", DICT)
    (tmp_path / "masks/y.csv").write_text(DARWIN)
    assert named(path)[1].by_key == BY_COLOR
    (tmp_path / "masks/y.csv").write_text(DARWIN.replace("sky", "water"))
    with pytest.raises(InputError, match=r"y.csv and .*class_dict.csv name different classes; say which"):
        named(path)
    for name in ("class_dict.csv", "masks/y.csv"):
        (tmp_path / name).unlink()
    for name, content in {
        "labels.txt": b"a.png\nb.png\n", "masks/classes.txt": b"", "names.txt": b"\xff\xfe\0",
        "train.csv": b"image,label\n", "LICENSE.txt": b"free\n", "masks/readme.txt": b"road\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    assert tables_beside(str(tmp_path / "masks")) == [] and not named(path)[1]


def test_quickstart_uses_a_table_of_colours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(8):
        label = np.roll(np.repeat(np.repeat(LABEL, 12, axis=0), 16, axis=1), index, axis=1)
        write_image(tmp_path / f"photos/{index}.jpg", rng.integers(0, 256, (*label.shape, 3)).astype(np.uint8))
        write_image(tmp_path / f"more/{index}.jpg", rng.integers(0, 256, (*label.shape, 3)).astype(np.uint8))
        write_label(tmp_path / f"masks/{index}.png", COLORS[label])

    def run(*more):
        words = ("photos", "masks", "more", "--iterations", 10, "--output", f"own_{tmp_path.name}", *more)
        return call_command(monkeypatch, "rc2l-quickstart", quickstart.main, *words, folder=".")

    (tmp_path / "class_dict.csv").write_text(DICT.replace("void,0,0,0\n", ""))
    result = run()
    assert result.returncode == 2 and "class_dict.csv has no name for #000000, but the labels in masks" in result.stderr
    assert "; add it there, or --ignore #000000" in result.stderr
    result = run("--ignore", "#000000")
    assert result.returncode == 0 and "Note: The classes have their names from class_dict.csv." in result.stdout
    content = yaml.safe_load((tmp_path / f"own_{tmp_path.name}/dataset.yaml").read_text())
    assert content["label_map"] == {"#ff0000": "road", "#0ac807": "sky", "#000000": "ignore"}


@pytest.mark.parametrize(
    ("table", "text", "keys", "expected"),
    [
        ("classes.txt", "road\nsky\n", {}, []),  # the background left out
        ("classes.txt", "Background\nRoad\nSky\nother\n", {}, []),
        ("labels/classes.txt", "sky\nroad\n", {}, ["classes.txt lists the classes in another order than the"]),
        ("class_dict.csv", DICT, {}, []),
        ("class_dict.csv", DICT, {"classes": ["sky", "road", "void"]}, ["class_dict.csv lists the classes in another"]),
        ("class_dict.csv", DICT, {"label_map": {"#ff0000": "road", "#0ac807": "sky", "#000000": "background"}}, []),
        ("class_dict.csv", DICT, {"label_map": {"#ff0000": "sky", "#0ac807": "road"}},
         ["other classes than the data set's YAML file: #ff0000 is sky, there road, #0ac807 is road, there sky;"]),
        ("_classes.csv", "0,background\n1,sky\n2,road\n", {}, ["1 is road, there sky, 2 is sky, there road; correct"]),
        ("_classes.csv", "0,background\n1,sky\n2,road\n", {"threshold": 128, "classes": ["sky", "road"]}, []),
        ("id2label.json", '{"0": "background", "1": "sky", "2": "road"}', {}, ["1 is road, there sky"]),
        ("id2label.json", '{"0": "background", "1": "road", "2": "sky"}', {}, []),
        ("id2label.json", '["sky", "road"]', {}, ["lists the classes in another order"]),
        ("notes.json", '{"categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "road"}]}', {}, []),
    ],
)  # fmt: skip
def test_tables_that_contradict_the_yaml_file_are_reported(tmp_path, monkeypatch, table, text, keys, expected):
    content = write_dataset(tmp_path / "data") | {"classes": ["background", "road", "sky"]} | keys
    (tmp_path / "data" / table).write_text(text)
    path = write_definition(tmp_path / "set.yaml", content)
    remarks = contradicting_tables(load_definition(path))
    assert len(remarks) == len(expected) and not any(remark.fatal for remark in remarks)
    assert all(part in str(remark) for part, remark in zip(expected, remarks, strict=True))
    if expected and "label_map" not in keys:
        result = call_command(monkeypatch, "rc2l-check", check.main, "--definition", path, "train", folder=".")
        assert result.returncode == 0 and f"warning: {remarks[0].what}; correct" in result.stdout, result.stdout

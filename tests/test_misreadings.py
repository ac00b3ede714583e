"""Folders that were once read wrongly without a word: each is refused, or a note says how it is read."""

import os
from pathlib import Path

import numpy as np
import pytest
from annotation_files import coco_content, labelme_content, write_images, write_json
from conftest import call_command
from data_files import write_definition, write_label
from PIL import Image

from rc2l_d2.commands import check, quickstart
from rc2l_d2.data import load_definition
from rc2l_d2.data.datasets.image_lists import read_list
from rc2l_d2.data.datasets.splits import split_entries
from rc2l_d2.errors import InputError

NAMES = [f"{number}.jpg" for number in range(8)]
LABEL = np.repeat(np.repeat(np.uint8([[0, 1, 2, 0]]), 16, axis=1), 48, axis=0)  # of the images' size, 48 x 64


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("im"), NAMES)
    write_images(Path("un"), NAMES[:3])


def out() -> Path:
    """The output folder, whose name is that of a data set, which all tests of a process know."""
    return Path(f"{Path.cwd().name}_out")


@pytest.fixture
def start(monkeypatch):
    """Call rc2l-quickstart; without options after IMAGES and LABELS it has the folder ``un``."""

    def call(images="im", labels="lab", *options):
        words = (images, labels, *(options or ("un",)))
        words += () if "--output" in words else ("--output", out())
        return call_command(monkeypatch, "rc2l-quickstart", quickstart.main, *words, "--seed", "1", folder=".")

    return call


def refused(result, *fragments):
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert all(fragment in result.stderr for fragment in fragments), result.stderr
    assert not out().exists()


def write_labels(*labels, folder="lab"):
    for number, label in enumerate(labels):
        write_label(Path(folder, f"{number}.png"), label)


def with_palette(label, *colors):
    image = Image.fromarray(label)
    image.putpalette([level for color in colors for level in color])
    return np.array(image), image


def write_palettes(*palettes):
    Path("lab").mkdir()
    for number, colors in enumerate(palettes):
        with_palette(LABEL, *colors)[1].save(f"lab/{number}.png")


RED_GREEN = ([0, 0, 0], [255, 0, 0], [0, 255, 0])


def test_an_absent_image_does_not_make_names_count(start):
    write_images(Path("both/day"), NAMES)
    write_images(Path("both/night"), ["99.jpg"])
    write_json(Path("coco.json"), coco_content([*(f"day/{name}" for name in NAMES), "day/99.jpg"]))
    refused(
        start("both", "coco.json"), "1 of 9 annotated images are in both by name alone, and the others", "day/99.jpg"
    )
    write_json(Path("flat.json"), coco_content([f"x/{name}" for name in NAMES[::-1]]))
    done = start("im", "flat.json")
    assert done.returncode == 0 and f"x/7.jpg is {os.path.abspath('im/7.jpg')}." in done.stdout


def test_palettes_that_differ(start, monkeypatch):
    orange = ([10, 10, 10], [255, 128, 0], [0, 0, 255])
    write_palettes(*[RED_GREEN] * 4, *[orange] * 4)
    done = start()
    assert done.returncode == 0 and "palettes of the labels give the value 0 several colours, so that" in done.stdout
    content = {"name": "differ", "root": ".", "images": "im", "labels": "lab", "image_suffix": ".jpg",
               "classes": ["a", "b", "c"], "parts": {"all": {"folder": "."}}}  # fmt: skip
    write_definition(Path("set.yaml"), content)
    checked = call_command(monkeypatch, "rc2l-check", check.main, "--definition", "set.yaml", "--full", folder=".")
    assert "labels whose palettes have other colours than others for the same values" in checked.stdout
    white = ([0, 0, 0], [255, 255, 255], [255, 255, 255])
    for number in range(4, 8):
        with_palette(LABEL, *white)[1].save(f"lab/{number}.png")
    again = start("im", "lab", "un", "--output", f"{out()}_again")
    assert again.returncode == 2 and "4.png: the label image's palette has one colour for two" in again.stderr


def test_white_of_one_bit_is_no_class(start):
    write_labels(*[np.where(LABEL == 0, np.uint8(255), LABEL)] * 7)
    for number in range(7):  # 0, 1, 2 and 255
        label = LABEL.copy()
        label[:2] = 255
        write_label(Path(f"lab/{number}.png"), label)
    white = np.zeros(LABEL.shape, bool)
    white[:2] = True
    Image.fromarray(white).save("lab/7.png")
    result = start("im", "lab", "un", "--ignore", "255")
    refused(result, "labels of 1 bit in a data set of more than two classes", "7.png")


def test_folders_that_cannot_be_read_are_not_left_out(start, monkeypatch):
    write_labels(*[LABEL] * 8)
    Path("im/sub").mkdir()
    walk = os.walk

    def closed(folder, onerror=None, followlinks=False):  # a superuser may read every folder
        if os.path.basename(folder) == "im":
            onerror(PermissionError(13, "Permission denied", "im/sub"))
        return walk(folder, onerror=onerror, followlinks=followlinks)

    monkeypatch.setattr(os, "walk", closed)
    refused(start(), "im/sub: the folder cannot be read (Permission denied)")


def test_instances_are_known_although_a_file_deviates(start):
    numbered = [np.repeat(np.repeat(np.arange(10, dtype=np.uint8)[None].clip(0, last), 48, 0), 7, 1)[:, :64]
                for last in (3, 5, 9, 4, 6, 8, 7, 6)]  # fmt: skip
    numbered[0] = np.maximum(numbered[0], 1)  # no background
    numbered[7][numbered[7] == 3] = 4  # a number is missing
    write_labels(*numbered)
    refused(start(), "values that count up in each file, as labels of instances do")


def test_edges_are_known_although_a_table_names_all_values(start):
    smooth = np.repeat(np.uint8([[0] * 30 + [1, 2, 3] + [4] * 31]), 48, axis=0)
    write_labels(*[smooth] * 8)
    write_json(Path("lab/id2label.json"), {str(value): f"name{value}" for value in range(5)})
    doubt = "hold 3 values on 1152 pixels (1, 2, 3) that are edges drawn or resized smoothly"
    told = start()
    assert told.returncode == 0 and doubt in told.stdout, told.stderr
    names = ",".join(f"{value}=name{value}" for value in range(5))
    done = start("im", "lab", "un", "--classes", names, "--overwrite")
    assert done.returncode == 0 and doubt not in done.stdout


def test_copies_of_an_image_are_held_out_together(start):
    names = [f"{number}_jpg.rf.{copy}a{number}.jpg" for number in range(6) for copy in "123"]
    write_images(Path("copies"), names)
    for name in names:
        write_label(Path("lab", f"{name[:-4]}.png"), LABEL)
    assert start("copies").returncode == 0
    held_out = {line.split("/")[1].split("_")[0] for line in (out() / "val.txt").read_text().splitlines()}
    learned = {line.split("/")[1].split("_")[0] for line in (out() / "labeled.txt").read_text().splitlines()}
    assert len(held_out) == 1 and held_out | learned == set("012345") and not held_out & learned


def test_folders_of_splits_are_not_mixed(start):
    for split in ("train", "val"):
        write_images(Path("split", split), NAMES)
        write_labels(*[LABEL] * 8, folder=f"split_labels/{split}")
    refused(start("split", "split_labels"), "has labelled images in train and in val, which would be mixed; name")
    assert start("split/train", "split_labels/train").returncode == 0
    for label in Path("split_labels/val").iterdir():
        label.unlink()
    told = start("split", "split_labels", "split", "--overwrite")
    assert told.returncode == 0 and "Unlabelled images in folders of tests: 8 (" in told.stdout


def test_a_label_of_a_list_that_is_not_there_is_told(caplog):
    write_labels(*[LABEL] * 8)
    Path("list.txt").write_text("".join(f"im/{name} fixed/{name[:-4]}.png\n" for name in NAMES))
    content = {"name": "told", "root": ".", "images": "im", "labels": "lab", "classes": ["a", "b", "c"],
               "image_suffix": ".jpg", "parts": {"all": {"list": "list.txt"}}}  # fmt: skip
    entries = split_entries(load_definition(write_definition(Path("set.yaml"), content)), "all", "all")
    assert entries[0]["sem_seg_file_name"].endswith("lab/0.png")
    assert "8 labels of the list" in caplog.text and "lab/0.png is read instead of fixed/0.png" in caplog.text


@pytest.mark.parametrize(("column", "values"), [("is_train", "11110000"), ("mode", ["train"] * 4 + ["Val"] * 4)])
def test_columns_of_splits_are_refused(column, values):
    rows = "".join(f"im/{name},lab/{name[:-4]}.png,{value}\n" for name, value in zip(NAMES, values, strict=True))
    Path("list.csv").write_text(f"image,label,{column}\n{rows}")
    with pytest.raises(InputError, match=f"column '{column}'.*all rows would be used; write one list"):
        read_list(Path("list.csv"), "data set 'x'")
    for other in (rows.replace("Val", "phone").replace(",0", ",7.5"), rows.replace("Val", "train").replace(",0", ",1")):
        Path("list.csv").write_text(f"image,label,source\n{other}")
        assert len(read_list(Path("list.csv"), "data set 'x'")[0]) == 8


def test_coordinates_that_are_fractions_are_refused(start):
    content = coco_content(NAMES, [(9, [[x / 64 for x in (5, 5, 40, 5, 40, 40, 5, 40)]]), (3, [[0, 0, 0, 1, 1, 1]])])
    write_json(Path("coco.json"), content)
    refused(start("im", "coco.json"), "no polygon leaves the first pixel, as if coordinates were fractions")
    content["annotations"][0]["segmentation"] = [[5, 5, 40, 5, 40, 40, 5, 40]]
    write_json(Path("coco.json"), content)
    assert start("im", "coco.json").returncode == 0


def test_nothing_is_replaced_by_a_call_that_fails(start):
    write_labels(*[LABEL] * 8)
    assert start().returncode == 0
    before = {path: path.read_bytes() for path in out().iterdir()}
    (out() / "run").mkdir()
    again = start("im", "lab", "un", "--overwrite")
    assert again.returncode == 0
    assert f"{out() / 'run'} holds a training, which rc2l-train does not replace" in again.stdout
    (out() / "run").rmdir()
    os.rename("un/0.jpg", os.fsencode("un/") + b"\xff.jpg")
    write_labels(*[LABEL[:, ::-1] * np.uint8(100)] * 8)
    failed = start("im", "lab", "un", "--overwrite")
    assert failed.returncode == 2 and "which is not UTF-8" in failed.stderr
    assert {path: path.read_bytes() for path in out().iterdir()} == before


@pytest.mark.parametrize(("names", "problem"), [
    (("car", "Car"), "the classes 'Car' and 'car', which differ in case or blanks alone"),
    (("car", "car "), "the classes 'car' and 'car ', which differ"),
    (("car", " "), "a class without a name"),
])  # fmt: skip
def test_typed_names_that_mean_one_class_are_refused(start, names, problem):
    for number in range(8):
        shapes = [(name, "rectangle", [[4 + 30 * place, 4], [24 + 30 * place, 40]]) for place, name in enumerate(names)]
        write_json(Path(f"lab/{number}.json"), labelme_content(f"{number}.jpg", shapes))
    refused(start(), problem)


def test_annotators_of_label_studio_may_have_hyphens(start):
    for number in range(8):
        for name, columns in (("car", np.s_[:, :20]), ("road", np.s_[:, 30:])):
            mask = np.zeros(LABEL.shape, np.uint8)
            mask[columns] = 255
            write_label(Path(f"lab/task-{number}-annotation-{number}-by-jean-luc@x-y.org-tag-{name}-0.png"), mask)
    assert start().returncode == 0
    assert load_definition(out() / "dataset.yaml").classes == ("background", "car", "road")


def test_images_of_formats_that_are_not_read_are_told(start):
    write_labels(*[LABEL] * 8)
    Path("un/a.JFIF").write_bytes(Path("un/0.jpg").read_bytes())
    done = start()  # relative paths
    assert done.returncode == 0 and "Files not used, of a format that data sets do not have: 1 (a.JFIF)" in done.stdout


def test_transparent_and_opaque_black_are_not_one_class(start):
    image = np.zeros((*LABEL.shape, 4), np.uint8)
    image[:, 20:, 3] = 255
    image[:, 40:, 0] = 200
    write_labels(*[image] * 8)
    refused(start(), "transparent pixels", "with the colour #000000 of visible ones")

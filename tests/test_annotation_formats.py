"""Annotations of labelling tools in a data set's YAML file and in rc2l-quickstart; from a COCO file to a COCO file."""

import json
import re

import numpy as np
import pytest
import yaml
from annotation_files import SIZE, coco_content, labelme_content, write_cvat, write_images, write_json
from conftest import TINY, call_command, load_script
from data_files import write_definition, write_label
from pycocotools.coco import COCO

from rc2l_d2.commands import check, predict, quickstart, train
from rc2l_d2.data import load_dataset, load_definition, read_label
from rc2l_d2.data.datasets.splits import list_entries, split_entries
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

NAMES = [f"{number}.jpg" for number in range(8)]
CLASSES = ["background", "dog", "cat"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with eight images in "photos" and three in "more"."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", NAMES)
    write_images(tmp_path / "more", ["a.jpg", "b.jpg", "c.jpg"])
    return tmp_path


@pytest.fixture
def expected() -> np.ndarray:
    """The label of coco_content: drawn by hand."""
    label = np.zeros(SIZE, np.uint8)
    label[5:40, 5:40] = 1
    file_mask = COCO.annToMask
    content = COCO()
    content.imgs = {7: {"height": SIZE[0], "width": SIZE[1]}}
    triangle = {"image_id": 7, "segmentation": [[20, 10, 60, 10, 60, 40]]}
    label[file_mask(content, triangle) > 0] = 2
    return label


def description(folder, labels, parts, **keys) -> str:
    content = {
        "name": "x",
        "root": str(folder),
        "images": "photos",
        "classes": CLASSES,
        "labels": labels,
        "parts": parts,
    }
    return str(write_definition(folder / "set.yaml", content | keys))


def read_all(file, split, labels="all"):
    entries = split_entries(load_definition(file), split, labels)
    return [read_label(e["sem_seg_file_name"], e["label_map"]) if "label_map" in e else None for e in entries]


def test_a_coco_file_gives_labels_and_splits(folder, expected):
    write_json(folder / "annotations/train.json", coco_content(NAMES[:5]))
    write_json(folder / "annotations/val.json", coco_content(NAMES[5:7]))
    rules = [{"coco": f"annotations/{split}.json", "outside": "background"} for split in ("train", "val")]
    parts = {split: {"list": f"annotations/{split}.json"} for split in ("train", "val")} | {"all": {"folder": "."}}
    file = description(folder, rules, parts)
    for split, count in (("train", 5), ("val", 2)):
        labels = read_all(file, split)
        assert len(labels) == count and all((label == expected).all() for label in labels)
    assert [label is None for label in read_all(file, "all", "existing")] == [False] * 7 + [True]
    with pytest.raises(InputError, match=r"1 of 8 label files are missing: .*train.json \(nothing of 7.jpg\)"):
        read_all(file, "all")


def test_images_of_one_name_are_not_mixed_up(folder):
    write_images(folder / "photos", ["night/0.jpg"])
    write_json(folder / "coco.json", coco_content(NAMES))
    rule = {"coco": "coco.json", "outside": "background"}
    parts = {"all": {"folder": "."}, "night": {"folder": "night"}}
    assert read_all(description(folder, rule, parts), "night", "existing") == [None], "0.jpg of the file is another"
    file = description(folder, rule | {"match": "name"}, parts)
    with pytest.raises(InputError, match="1 images share their name with others .*night/0.jpg among them"):
        read_all(file, "night")


def test_class_tables_name_the_values_of_label_images(folder):
    label = np.repeat(np.uint8([[0, 1, 2]]), 4, axis=0)
    write_cvat(
        folder / "cvat",
        {"0": label},
        ["background:1,1,1::", "cat:2,2,2::", "dog:9,0,0::"],
        [[1] * 3, [2] * 3, [9, 0, 0]],
    )
    write_label(folder / "rf/0_mask.png", label)
    (folder / "rf/_classes.csv").write_text("Pixel Value, Class\n0, background\n2, dog\n1, cat\n")
    (folder / "one.txt").write_text("0\n")
    for rule in (
        {"folder": "cvat/SegmentationClass", "map": "cvat/labelmap.txt"},
        {"folder": "rf", "suffix": "_mask.png", "map": "rf/_classes.csv"},
    ):
        file = description(folder, rule, {"one": {"list": "one.txt"}})
        assert read_all(file, "one")[0][0].tolist() == [0, 2, 1]
    (folder / "rf/_classes.csv").write_text("0, background\n2, bus\n1, cat\n")
    with pytest.raises(InputError, match=r"labels.map.* cannot be used; .*\(2 becomes 'bus', which is no class name"):
        load_definition(file)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"coco": "a.json"}, "'labels.outside' cannot be used; it must be given: the class of the pixels"),
        ({"coco": "a.json", "outside": "road"}, "outside and map must be class names, .*'outside' becomes 'road'"),
        ({"labelme": "l", "outside": "dog", "map": {"x": "y"}}, "'x' becomes 'y', which is none"),
        ({"labelme": "l", "outside": "dog", "suffix": ".json"}, "'labels' cannot be used; it must be a folder, or"),
        ({"masks": "l/*.png", "outside": "dog"}, "labels.masks.* a pattern with {id} and either {class} or the key"),
        ({"coco": "a.json", "outside": "dog", "match": "id"}, "labels.match.* it must be path or name"),
        ({"coco": "../a.json", "outside": "dog"}, "labels.coco' names ../a.json, which leads out"),
    ],
)
def test_refused_rules(folder, rule, message):
    with pytest.raises(InputError, match=message):
        load_definition(description(folder, rule, {"all": {"folder": "."}}))


def run(monkeypatch, *arguments):
    return call_command(monkeypatch, "rc2l-quickstart", quickstart.main, *map(str, arguments), folder=".")


def labelme_files(folder):
    for name in NAMES:
        shapes = [("dog", "rectangle", [[5, 5], [39, 39]]), ("cat", "polygon", [[20, 10], [60, 10], [60, 40]])]
        write_json(folder / f"photos/{name[:-4]}.json", labelme_content(name, shapes))
    return "photos", ["background", "cat", "dog"]


def brush_masks(folder):
    for number in range(8):
        for name, columns in (("Car", slice(8, 24)), ("Road", slice(20, 60))):
            mask = np.zeros(SIZE, np.uint8)
            mask[:, columns] = 255
            write_label(folder / f"png/task-{number}-annotation-{number}-by-1-tag-{name}-0.png", mask)
    return "png", ["background", "Car", "Road"]


def coco_file(folder):
    write_json(folder / "export/instances.json", coco_content(NAMES[:7]))
    return "export", CLASSES


def panoptic(folder):
    content, segments = coco_content(NAMES), [{"id": 300, "category_id": 9}, {"id": 2, "category_id": 3}]
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[:20], ids[25:] = (44, 1, 0), (2, 0, 0)
    content["annotations"] = [
        {"image_id": image["id"], "file_name": "one.png", "segments_info": segments} for image in content["images"]
    ]
    write_label(folder / "panoptic/one.png", ids)
    return write_json(folder / "panoptic.json", content), ["dog", "cat"]


@pytest.mark.parametrize("export", [labelme_files, brush_masks, coco_file, panoptic])
def test_quickstart_takes_annotations_and_training_reads_them(folder, monkeypatch, export):
    labels, classes = export(folder)
    output = folder.name
    result = run(monkeypatch, "photos", labels, "more", "--output", output)
    assert result.returncode == 0, result.stderr
    definition = load_definition(f"{output}/dataset.yaml")
    assert list(definition.classes) == classes
    options = ("--config-file", f"{output}/train.yaml", "--full", "--workers", "1")
    checked = call_command(monkeypatch, "rc2l-check", check.main, *options, folder=".").stdout
    assert checked.splitlines()[-1] == "Problems: 0, warnings: 0.", checked
    cfg = load_config(f"{output}/train.yaml")
    pixels = sum(
        np.bincount(read_label(entry["sem_seg_file_name"], entry["label_map"]).ravel(), minlength=256)
        for name in (cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0])
        for entry in load_dataset(name, "all")
    )
    shown = [float(line.split()[-1]) for line in result.stdout.splitlines()[4 : 4 + len(classes)]]
    counts = pixels[: len(classes)]
    assert counts.all() and shown == pytest.approx((100 * counts / counts.sum()).tolist(), abs=0.006)


def change(**keys):
    return lambda content: content.update(keys)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (change(categories=[{"id": 9, "name": "Background"}, {"id": 3, "name": "cat"}]), (),
         "has the class 'Background', so that it is not clear what the pixels in no annotation are; give --outside"),
        (change(categories=[{"id": 9, "name": "ignore"}, {"id": 3, "name": "cat"}]), (), "a class called 'ignore'"),
        (lambda c: c["images"][3].update(file_name="no.jpg"), (), "1 of 7 annotated images are not in photos,.*no.jpg"),
        (lambda c: c["images"][3].update(height=47), (), r"coco.json, image 3.jpg \(label 64x47, image 64x48\)"),
        (lambda c: c["annotations"].clear(), (), "coco.json has no annotation; annotate images"),
        (None, ("--classes", "a,b"), "names its classes itself; leave --classes out"),
        (None, ("--image-suffix", ".jpg"), "names its images itself; leave --image-suffix out"),
    ],
)  # fmt: skip
def test_quickstart_refuses_what_is_not_clear(folder, monkeypatch, content, options, message):
    exported = coco_content(NAMES[:7])
    if content is not None:
        content(exported)
    write_json(folder / "coco.json", exported)
    result = run(monkeypatch, "photos", "coco.json", "more", "--output", folder.name, *options)
    assert result.returncode == 2 and not (folder / folder.name).exists()
    assert re.search(message, result.stderr), result.stderr


def test_quickstart_asks_which_labels_are_meant(folder, monkeypatch):
    coco_file(folder)
    write_label(folder / "export/0.png", np.zeros(SIZE, np.uint8))
    result = run(monkeypatch, "photos", "export", "more")
    assert result.returncode == 2 and "both of which could be labels; name the COCO file" in result.stderr
    result = run(monkeypatch, "photos", "more", "--outside", "ignore")
    assert result.returncode == 2 and "--outside and --empty are for annotations" in result.stderr
    # As Supervisely and VIA write them.
    write_json(folder / "ann/0.jpg.json", {"size": {"height": 48, "width": 64}, "objects": []})
    result = run(monkeypatch, "photos", "ann", "more")
    assert result.returncode == 2 and "ann/0.jpg.json) of another format; export them as COCO JSON" in result.stderr


def test_from_a_coco_export_to_coco_results(folder, monkeypatch):
    """Quickstart, training and prediction; pycocotools loads what comes out, and quickstart takes it as labels."""
    write_json(folder / "coco.json", coco_content([f"export/{name}" for name in NAMES]))
    output = f"{folder.name}_run"
    result = run(monkeypatch, "photos", "coco.json", "more", "--output", output, "--iterations", 10)
    assert result.returncode == 0 and "found by their names without folders" in result.stdout, result.stderr
    tiny = [*TINY, "SOLVER.MAX_ITER", "2", "INPUT.CROP.SIZE", "(32,32)", "SOLVER.CHECKPOINT_PERIOD", "2"]
    options = ("--config-file", f"{output}/train.yaml", *tiny, "DATALOADER.NUM_WORKERS", "0")
    trained = call_command(monkeypatch, "rc2l-train", train.run, *options, folder=".")
    assert trained.returncode == 0, trained.stderr
    weights = f"{output}/run/teacher_final.pth"
    options = ("--weights", weights, "--input", "more", "--output", "seen", "--labels", "--coco", "out/results.json")
    predicted = call_command(monkeypatch, "rc2l-predict", predict.main, *options, folder=".")
    assert predicted.returncode == 0, predicted.stderr

    reference = COCO("out/results_dataset.json")
    loaded = reference.loadRes("out/results.json")
    entries = json.loads((folder / "out/results.json").read_text())
    assert {entry["file_name"] for entry in entries} == {"a.jpg", "b.jpg", "c.jpg"}
    for results in (reference, loaded):
        for image in reference.loadImgs(reference.getImgIds()):
            joined = np.full(SIZE, 255, np.uint8)
            for annotation in results.loadAnns(results.getAnnIds(imgIds=image["id"])):
                joined[results.annToMask(annotation) > 0] = annotation["category_id"]
            path = f"seen/labels/{image['file_name'][:-4]}.png"
            assert (joined == read_label(path)).all()
    assert [category["name"] for category in reference.loadCats(reference.getCatIds())] == CLASSES
    file = description(
        folder, {"coco": "out/results_dataset.json", "outside": "ignore"}, {"all": {"folder": "."}}, images="more"
    )
    assert (read_all(file, "all")[0] == read_label("seen/labels/a.png")).all()
    assert yaml.safe_load((folder / output / "dataset.yaml").read_text())["labels"]["match"] == "name"


def test_a_sampled_split_of_annotated_images_reads_back(folder, monkeypatch, expected):
    write_json(folder / "coco.json", coco_content(NAMES))
    file = description(folder, {"coco": "coco.json", "outside": "background"}, {"all": {"folder": "."}}, name="sampled")
    options = ("sampled_all", "--definition", file, "--number", "3", "--balanced", "--output", "lists")
    script = load_script("tools/make_splits.py")
    result = call_command(monkeypatch, "make_splits.py", script.main, *options, folder=".")
    assert result.returncode == 0, result.stderr
    entries = list_entries(load_definition(file), "lists/labeled.txt", "all", "LIST")
    assert len(entries) == 3
    assert all((read_label(e["sem_seg_file_name"], e["label_map"]) == expected).all() for e in entries)

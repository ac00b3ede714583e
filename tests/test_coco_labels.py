"""Labels drawn from COCO files: pycocotools' own masks are the reference."""

import json

import numpy as np
import pytest
from annotation_files import SIZE, coco_content, write_images, write_json
from data_files import write_label
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from rc2l_d2.data import read_label
from rc2l_d2.data.labels.coco import CocoLabels, run_lengths
from rc2l_d2.data.labels.coco_file import open_coco
from rc2l_d2.data.labels.drawn import NamedClasses
from rc2l_d2.errors import InputError

CLASSES = ("background", "cat", "dog")


def names(outside="background", listed=None, classes=CLASSES):
    return NamedClasses.from_yaml(outside, listed or {}, classes, 255)


def drawn(file, image="a.jpg", labels=None):
    """The label as training reads it."""
    label = (labels or CocoLabels(names())).of(file, f"/images/{image}", image, image[:-4])
    return None if label is None else read_label(file, label)


def encoded(mask) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def uncompressed(mask) -> dict:
    flat = mask.T.ravel().astype(int)
    bounds = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    lengths = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": [0, *lengths] if flat[0] else lengths}


def test_labels_are_pycocotools_masks_in_the_order_of_the_file(tmp_path, capsys):
    rng = np.random.default_rng(1)
    noise = [rng.random(SIZE) < share for share in (0.02, 0.05)]
    polygons = [rng.uniform(-8, 70, 2 * corners).tolist() for corners in (3, 4, 7)]
    segmentations = [(9, polygons[:1]), (3, encoded(noise[0])), (3, polygons[1:]), (9, uncompressed(noise[1]))]
    content = coco_content(["a.jpg"], segmentations)
    content["annotations"][3]["iscrowd"] = 1
    file = write_json(tmp_path / "coco.json", content)
    reference, expected = COCO(file), np.zeros(SIZE, np.uint8)
    for annotation in reference.dataset["annotations"]:
        name = reference.cats[annotation["category_id"]]["name"]
        expected[reference.annToMask(annotation) > 0] = CLASSES.index(name)
    capsys.readouterr()
    label = drawn(file)
    assert (label == expected).all() and set(np.unique(label)) == {0, 1, 2}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_mask_is_read_from_both_codes(data):
    height, width = data.draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    for code in (encoded(mask), uncompressed(mask)):
        assert (coco_mask.decode(run_lengths(code, (height, width))) == mask).all()


def test_classes_are_found_by_name_and_may_be_joined_or_ignored(tmp_path):
    file = write_json(tmp_path / "coco.json", coco_content(["a.jpg"]))
    plain = drawn(file)
    assert plain[20, 10] == 2 and plain[15, 50] == 1 and plain[0, 0] == 0 and plain[12, 30] == 1, "the cat is later"
    joined = names("ignore", {"cat": "pet", "other": "ignore"}, ("pet", "road"))
    assert drawn(file, labels=CocoLabels(joined))[[20, 15, 0], [10, 50, 0]].tolist() == [255, 0, 255]
    with pytest.raises(
        InputError, match="image a.jpg: it has the class 'cat', which the data set does not have; add it"
    ):
        drawn(file, labels=CocoLabels(names("ignore", classes=("dog", "road"))))


def test_images_without_an_annotation_are_labelled_only_on_demand(tmp_path):
    content = coco_content(["a.jpg"])
    content["images"].append({"id": 1, "file_name": "b.jpg", "height": 2, "width": 3})
    file = write_json(tmp_path / "coco.json", content)
    assert drawn(file, "b.jpg") is None and drawn(file, "c.jpg") is None
    assert drawn(file, "b.jpg", CocoLabels(names(), keep_empty=True)).tolist() == [[0, 0, 0]] * 2


def test_names_with_folders_count_from_the_rules_folder_or_not_at_all(tmp_path):
    file = write_json(tmp_path / "coco.json", coco_content(["night\\a.jpg"]))
    assert open_coco(file).names == ("night/a.jpg",), "a Windows path"
    for image, images, found in (
        ("night/a.jpg", "", True), ("a.jpg", "", False), ("day/a.jpg", "", False), ("x/night/a.jpg", "x", True),
        ("night/a.jpg", "x", False),
    ):  # fmt: skip
        assert (drawn(file, image, CocoLabels(names(), images)) is not None) == found, image
    assert drawn(file, "elsewhere/a.jpg", CocoLabels(names(), by_name=True)) is not None
    content = coco_content(["night/a.jpg", "day/a.jpg"])
    with pytest.raises(InputError, match="several images are called 'a.jpg'"):
        drawn(write_json(tmp_path / "two.json", content), "a.jpg", CocoLabels(names(), by_name=True))


def test_sizes_may_be_left_to_the_image(tmp_path):
    content = coco_content(["a.jpg"])
    del content["images"][0]["height"], content["images"][0]["width"]
    file = write_json(tmp_path / "coco.json", content)
    write_images(tmp_path, ["a.jpg"])
    label = CocoLabels(names()).of(file, str(tmp_path / "a.jpg"), "a.jpg", "a")
    assert read_label(file, label).shape == SIZE


def test_panoptic_segments_are_read_from_their_png(tmp_path):
    ids = np.zeros(SIZE, int)
    ids[:20], ids[20:30, 5:], ids[40:] = 70_000, 300, 5
    content = coco_content(["a.jpg"])
    segments = [{"id": 70_000, "category_id": 9}, {"id": 300, "category_id": 3}, {"id": 5, "category_id": 9}]
    content["annotations"] = [{"image_id": 7, "file_name": "a.png", "segments_info": segments}]
    file = write_json(tmp_path / "panoptic.json", content)
    write_label(tmp_path / "panoptic/a.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8))
    (tmp_path / "panoptic").rename(tmp_path / "png")
    labels = CocoLabels(names("ignore"), segments="png")
    expected = np.full(SIZE, 255)
    expected[ids == 300], expected[(ids == 70_000) | (ids == 5)] = 1, 2
    assert (drawn(file, labels=labels) == expected).all()
    with pytest.raises(InputError, match="panoptic/a.png: the file of panoptic segments does not exist"):
        drawn(file)
    segments.pop()
    with pytest.raises(InputError, match="has no segment 5, but .*a.png has; use files of one export"):
        drawn(write_json(tmp_path / "panoptic2.json", content), labels=labels)


def annotation(**keys):
    return lambda content: content["annotations"][0].update(keys)


def segmentation(value):
    return annotation(segmentation=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append({**c["images"][0], "id": 1}), "the file_name of two images is equal .a.jpg"),
        (lambda c: c["images"].append({"id": 7, "file_name": "b.jpg"}), "the id of two images is equal .7"),
        (lambda c: c["images"].append({"id": 8, "file_name": "./a.jpg"}), "the image a.jpg is listed twice"),
        (lambda c: c["images"][0].pop("file_name"), "one of images has no file_name"),
        (lambda c: c["images"][0].update(height=0), "the image a.jpg has height 0 and width 64 are no size"),
        (lambda c: c["categories"][0].update(name="cat"), "the name of two categories is equal .cat"),
        (lambda c: c["categories"][0].pop("name"), "one of categories has no name"),
        (annotation(image_id=99), "annotation 1 belongs to an image that is not listed"),
        (annotation(category_id=1), "annotation 1 has a category that is not listed"),
        (segmentation([]), "1 of 2 annotations have no segmentation .annotation 1 is the first.; export polygons"),
        (segmentation([[1, 1, 5, 5]]), "image a.jpg: annotation 1 has a polygon that is not x and y of three points"),
        (segmentation([[1, 1, 5, 5, 9]]), "annotation 1 has a polygon that is not x and y"),
        (segmentation([[1, 1, 5, 5, 9, float("nan")]]), "annotation 1 has a polygon that lies far outside"),
        (segmentation([[1, 1, 5, 5, 9, 1e9]]), "annotation 1 has a polygon that lies far outside"),
        (segmentation([[70, 5, 90, 5, 90, 9]]), r"annotation 1 lies outside of its image of \d+x\d+ pixels \(was that"),
        (segmentation([[1, -9, 5, -9, 9, -1]]), r"annotation 1 lies outside of its image of \d+x\d+ pixels \(was that"),
        (segmentation("words"), "annotation 1 has neither polygons nor run lengths"),
        (segmentation({"size": [3, 3], "counts": [9]}), r"run lengths of the size \[3, 3\], its image \[48, 64\]"),
        # pycocotools would leave the rest of the pixels as they happen to lie in memory.
        (segmentation({"size": [48, 64], "counts": [5]}), "has run lengths that do not sum to the number of pixels"),
        (segmentation({"size": [48, 64], "counts": [-1, 3073]}), "has run lengths that do not sum"),
        (segmentation({"size": [48, 64], "counts": "4"}), "has run lengths that do not sum"),
        (segmentation({"size": [48, 64], "counts": "P"}), "run lengths that end too early"),
        (segmentation({"size": [48, 64], "counts": "\t"}), "run lengths that cannot be decoded"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    content = coco_content(["a.jpg"])
    change(content)
    file = write_json(tmp_path / "coco.json", content)
    with pytest.raises(InputError, match=message) as caught:
        drawn(file)
    assert str(caught.value).startswith(f"{file}: ") and str(caught.value).endswith(".")


def test_other_files_are_refused(tmp_path):
    for text, message in (("{", "is not valid JSON"), ("[]", "this is no COCO file"), ("[" * 9**5, "not valid JSON")):
        (tmp_path / "coco.json").write_text(text)
        with pytest.raises(InputError, match=message):
            open_coco(str(tmp_path / "coco.json"))
    # A message quotes the beginning of a long text.
    image = {"id": 1, "file_name": "a.jpg", "height": ["x"] * 9999, "width": 4}
    file = write_json(tmp_path / "coco.json", {"images": [image], "annotations": [], "categories": []})
    with pytest.raises(InputError, match="no size of an image") as caught:
        open_coco(file)
    assert len(str(caught.value)) < 500
    with pytest.raises(InputError, match="cannot be read .No such file"):
        open_coco(str(tmp_path / "none.json"))


def test_a_label_is_small_when_it_is_sent_to_another_process(tmp_path):
    import pickle

    file = write_json(tmp_path / "coco.json", coco_content([f"{number}.jpg" for number in range(500)]))
    label = CocoLabels(names()).of(file, "/images/3.jpg", "3.jpg", "3")
    assert len(pickle.dumps(label)) < 1000
    assert json.loads(label.annotations)[1][0] == "cat"

"""Splits of a data set: their images, their labels, and the map of each label."""

from pathlib import Path

import numpy as np
import pytest
from data_files import write_definition

from rc2l_d2.data import load_definition
from rc2l_d2.data.datasets import splits
from rc2l_d2.data.datasets.splits import split_entries, split_images
from rc2l_d2.errors import InputError


class Tree:
    """A data set folder of files that no test here reads, and its description with the split "train"."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.content = {
            "name": "tree", "root": str(folder), "images": "images", "labels": "labels", "image_suffix": ".jpg",
            "classes": ["a", "b"], "parts": {"train": {"list": "list.txt"}},
        }  # fmt: skip
        (folder / "images").mkdir(parents=True)

    def add(self, *files: str) -> None:
        for file in files:
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).write_bytes(b"x")

    def write_list(self, *lines: str, name: str = "list.txt") -> None:
        (self.folder / name).write_text("\n".join(lines))

    def definition(self, **changes):
        return load_definition(write_definition(self.folder / "set.yaml", {**self.content, **changes}))

    def images(self, split: str = "train", **changes) -> list[str]:
        """Paths below the root."""
        return [self.below(path) for path in split_images(self.definition(**changes), split).images]

    def found(self, **source) -> list[str]:
        """Paths below the root of the images of a split of one source."""
        return self.images(parts={"train": source})

    def entries(self, wanted: str = "all", **changes):
        return split_entries(self.definition(**changes), "train", wanted)

    def labels(self, wanted: str = "all", **changes) -> list[str | None]:
        entries = self.entries(wanted, **changes)
        return [self.below(entry["sem_seg_file_name"]) if "sem_seg_file_name" in entry else None for entry in entries]

    def below(self, path: str) -> str:
        return path.removeprefix(f"{self.folder}/")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "data")


def test_lists_of_ids_and_of_paths(tree):
    tree.add("images/x/a.jpg", "images/b.png", "images/c.jpg", "other/d.jpg")
    tree.write_list("x/a", "c")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    # The suffix with which the image exists, or the first.
    tree.write_list("x/a", "b", "gone")
    assert tree.images(image_suffix=[".jpg", ".png"]) == ["images/x/a.jpg", "images/b.png", "images/gone.jpg"]
    tree.write_list("images/b.png", "other/d.jpg")
    assert tree.images() == ["images/b.png", "other/d.jpg"]
    # Relative to the image folder, as people write their own.
    tree.write_list("x/a.jpg", "c.jpg")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    tree.write_list("images/x/a.jpg labels/a.png", "images/c.jpg labels/c.png")
    assert tree.images() == ["images/x/a.jpg", "images/c.jpg"]
    assert list(split_images(tree.definition(), "train").labels) == ["labels/a.png", "labels/c.png"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"list": "list.txt"}, r"holds no image: the list \S*/list\.txt is empty; fill it"),
        ({"folder": "more"}, r"the folder \S*/images/more has none whose name ends with \.jpg; correct the key 'fo"),
        ({"folder": "mor"}, r"split 'train' names the folder .*/images/mor, which does not exist; correct"),
        ({"pattern": "n*/*.png"}, r"the pattern 'n\*/\*\.png' below \S*/images/ has none .*; correct the key 'pa"),
        ({"of": "all", "except": "all"}, r"holds no image, as split 'all' has every image of split 'all'; correct"),
        ({"of": "empty", "fraction": 0.5}, r"split 'empty' holds no image: the list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("labels", ["all", "none"])
def test_a_split_without_images_is_refused(tree, split, message, labels):
    tree.add("images/a.jpg", "images/more/b.tif", "images/more/c.txt")
    tree.write_list("")
    tree.content["parts"] = {"empty": {"list": "list.txt"}, "all": {"pattern": "*"}, "train": split}
    with pytest.raises(InputError, match=message):
        tree.entries(labels)


def test_repeated_images_and_unreadable_lists_are_refused(tree):
    tree.write_list("a", "b", "c", "b", "a", "a")
    with pytest.raises(InputError, match=r"list\.txt names 2 images twice, '.*/images/a\.jpg' among them"):
        tree.images()
    tree.write_list("a/b.jpg", "c.jpg", "a//b.jpg")
    with pytest.raises(InputError, match="names 1 image twice"):
        tree.images()
    (tree.folder / "list.txt").unlink()
    tree.content["parts"]["half"] = {"of": "train", "fraction": 0.5}
    with pytest.raises(InputError, match=r"split 'train': the list .*list\.txt cannot be read"):
        tree.images("half")


def test_images_that_differ_in_their_format_alone_are_not_guessed(tree):
    del tree.content["image_suffix"]
    tree.add("images/a.jpg", "images/a.png", "images/b.jpg", "labels/a.png", "labels/b.png")
    tree.content["parts"]["train"] = {"folder": "."}
    with pytest.raises(InputError, match=r"/a\.jpg and .*/a\.png would both have the label .*/labels/a\.png; move"):
        tree.labels()
    assert len(tree.images()) == 3, "without labels each is an image"
    tree.content["parts"]["train"] = {"list": "list.txt"}
    tree.write_list("b", "a")
    with pytest.raises(InputError, match=r"list names 'a', but .*/images/ has a\.jpg and a\.png; give image_suffix"):
        tree.images()
    tree.write_list("a")
    assert tree.labels(labels="images") == ["images/a.png"], "a label beside its image"
    tree.write_list("images/a.png", "images/b.jpg")
    assert tree.labels() == ["labels/a.png", "labels/b.png"]
    # Images of one place by day and by night differ in more than their format.
    tree.add("images/c_day.jpg", "images/c_night.jpg", "labels/c.png")
    views = {"image_suffix": ["_day.jpg", "_night.jpg"], "parts": {"train": {"folder": "."}}}
    assert tree.labels(**views) == ["labels/c.png"] * 2


def test_folders(tree):
    tree.add(
        "images/more/b.jpg", "images/more/a.JPEG", "images/more/deep/x/c.png",
        "images/more/note.txt", "images/more/d.jpg.bak", "images/more/.hidden.jpg", "images/more/.git/e.jpg",
        "images/f.jpg", "images/more/g.tif",
    )  # fmt: skip
    assert tree.found(folder=".") == ["images/f.jpg", "images/more/b.jpg"]
    # Default suffixes.
    del tree.content["image_suffix"]
    assert tree.found(folder="more") == ["images/more/a.JPEG", "images/more/b.jpg", "images/more/deep/x/c.png"]
    tree.content["image_suffix"] = ".PNG"
    assert tree.found(folder="more") == ["images/more/deep/x/c.png"]


def test_patterns(tree):
    tree.add("images/1/left/a.jpg", "images/1/right/a.jpg", "images/2/left/b.jpg", "images/2/left/b.txt",
             "images/2/left/.c.jpg", "images/2/left/d.JPG", "images/left/e.jpg")  # fmt: skip
    first, right, second, last = (f"images/{name}.jpg" for name in ("1/left/a", "1/right/a", "2/left/b", "left/e"))
    assert tree.found(pattern="*/left/*.jpg") == [first, second]
    assert tree.found(pattern="**/left/*") == [first, second, "images/2/left/d.JPG", last]
    assert tree.found(pattern="**/*.jpg") == [first, right, second, last]
    assert tree.found(pattern="1/**") == [first, right]
    assert tree.found(pattern="[12]/**/**/b*") == [second]


def test_links_are_followed_once(tree, tmp_path):
    tree.add("images/more/a.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.jpg").write_bytes(b"x")
    for name, target in {
        "link": tmp_path / "elsewhere", "link2": tmp_path / "elsewhere", "c.jpg": tmp_path / "elsewhere/b.jpg",
        # With two loops Python's own glob would search 2 ** 40 folders.
        "loop": tree.folder / "images/more", "loop2": tree.folder / "images/more", "dead": tmp_path / "nowhere",
    }.items():  # fmt: skip
        (tree.folder / "images/more" / name).symlink_to(target)
    expected = ["images/more/a.jpg", "images/more/c.jpg", "images/more/link/b.jpg"]
    assert tree.found(folder="more") == expected
    for pattern in ("**/*.jpg", "more/**", "m*/**/*.jpg"):
        assert tree.found(pattern=pattern) == expected


def test_folders_and_patterns_are_searched_once(tree):
    tree.add("images/more/a.jpg", "labels/more/a.png")
    sources = [{"folder": "more"}, {"pattern": "more/*"}]
    before = [tree.found(**source) for source in sources]
    tree.add("images/more/b.jpg")
    # The loader uses the images that were checked.
    assert before == [tree.found(**source) for source in sources] == [["images/more/a.jpg"]] * 2
    assert tree.found(folder=".") == ["images/more/a.jpg", "images/more/b.jpg"]


def test_sampled_and_remaining_splits(tree):
    tree.write_list(*(f"x{number:02d}" for number in range(20)))
    tree.content["parts"].update(
        sampled={"of": "train", "fraction": 0.25, "seed": 0},
        rest={"of": "train", "except": "sampled"},
        tiny={"of": "rest", "fraction": 0.001, "seed": 0},
        all={"of": "train", "fraction": 1},
    )
    # RandomState(0)'s first five of 20: a published split must not change.
    assert tree.images("sampled") == [f"images/x{number:02d}.jpg" for number in (1, 8, 10, 18, 19)]
    assert sorted(tree.images("rest") + tree.images("sampled")) == tree.images()
    assert len(tree.images("tiny")) == 1 and tree.images("all") == tree.images()
    # An id in one list and a path in another can be the same image.
    tree.write_list("images/x03.jpg labels/x03.png", name="some.txt")
    tree.content["parts"].update(some={"list": "some.txt"}, others={"of": "train", "except": "some"})
    assert len(tree.images("others")) == 19 and "images/x03.jpg" not in tree.images("others")


def test_sampled_splits_keep_the_labels_of_their_list(tree):
    names = [f"x{number}" for number in range(8)]
    tree.add(*(f"images/{name}.jpg" for name in names), *(f"labels/of_{name}.png" for name in names))
    tree.write_list(*(f"images/{name}.jpg labels/of_{name}.png" for name in names))
    tree.content["parts"].update(sampled={"of": "train", "fraction": 0.5}, rest={"of": "train", "except": "sampled"})
    for split in ("sampled", "rest"):
        for entry in split_entries(tree.definition(), split, "all"):
            assert entry["sem_seg_file_name"] == f"{tree.folder}/labels/of_{entry['image_id']}.png"


def test_missing_images_are_counted_in_every_list_format(tree):
    tree.add("images/a.jpg", "images/elsewhere/c.jpg")
    for lines in (["a", "b", "c"], [f"images/{name}.jpg" for name in "abc"], [f"{name}.jpg" for name in "abc"]):
        tree.write_list(*lines)
        # An image called c in another folder is a different image.
        with pytest.raises(InputError, match=r"2 of 3 image files are missing: .*/images/b\.jpg, .*/images/c\.jpg;"):
            tree.entries("none")
    tree.write_list(*(f"gone_{index}" for index in range(12)))
    with pytest.raises(InputError, match=r"12 of 12 image files are missing: .*gone_9\.jpg, \.\.\.") as caught:
        tree.entries("none")
    assert "gone_10" not in str(caught.value)
    # Paths count from the root.
    tree.write_list("/elsewhere/z.png")
    with pytest.raises(InputError, match=rf"missing: {tree.folder}/elsewhere/z\.png; .*\(paths .* root\)"):
        tree.entries("none")


def test_images_in_lists_of_another_layout_are_found_by_name(tree, caplog):
    tree.add("images/x/a.jpg", "images/y/b.jpg", "images/y/.c.jpg", "images/z/d.jpg", "images/w/d.jpg")
    tree.write_list("/old/a.png\t/gt/a.png", "/old/b.jpg\t/gt/b.png")
    with caplog.at_level("WARNING"):
        entries = tree.entries("none")
    assert [entry["image_id"] for entry in entries] == ["x/a", "y/b"]
    assert "2 images are not at the paths in its list" in caplog.text
    # No hidden files.
    tree.write_list("old/a.jpg", "old/c.jpg")
    with pytest.raises(InputError, match=r"1 of 2 image files are missing: .*/old/c\.jpg; .*/list\.txt \(paths in it"):
        tree.entries("none")
    # Nor one of two of one name.
    tree.write_list("old/a.jpg", "old/d.jpg")
    with pytest.raises(InputError, match=r"list \S*/list\.txt are not at its paths, and for 1 of 2 there are .*'d'"):
        tree.entries("none")


def test_a_sample_of_a_very_long_list_is_looked_for(tree, monkeypatch, caplog):
    monkeypatch.setattr(splits, "LOOKUP_LIMIT", 9)
    monkeypatch.setattr(splits, "LOOKUP_SAMPLE", 4)  # The images 0, 3, 6 and 9.
    names = [f"x{number}" for number in range(10)]
    tree.add(*(f"images/{name}.jpg" for name in names))
    tree.write_list(*names)
    (tree.folder / "images/x1.jpg").unlink()
    assert len(tree.entries("none")) == 10
    assert "has 10 images; only 4 of them are looked for" in caplog.text
    (tree.folder / "images/x3.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 10 image files are missing: .*/x3\.jpg;"):
        tree.entries("none")


def test_all_existing_or_no_labels(tree):
    tree.add("images/a.jpg", "images/b.jpg", "labels/b.png")
    tree.write_list("a", "b")
    assert tree.labels("none") == [None, None]
    assert tree.labels("existing") == [None, "labels/b.png"]
    with pytest.raises(InputError, match=r"split 'train': 1 of 2 label files are missing: .*/labels/a\.png;"):
        tree.labels("all")
    del tree.content["labels"]
    assert tree.labels("none") == tree.labels("existing") == [None, None]
    with pytest.raises(InputError, match="has no key 'labels'"):
        tree.labels("all")


def test_several_folders_suffixes_and_replacements(tree):
    tree.add("images/left/a.jpg", "images/left/b_rgb.jpg", "images/c.jpg")
    tree.add("one/left/a.png", "two/left/a_gt.png", "two/right/b_gt.png", "c.tif")
    tree.write_list("left/a", "left/b_rgb", "c")
    rules = [
        "one",
        {"folder": "two", "suffix": "_gt.png", "replace": {"left": "right", "_rgb": ""}},
        {"folder": ".", "suffix": ".tif"},
    ]
    assert tree.labels(labels=rules) == ["one/left/a.png", "two/right/b_gt.png", "c.tif"]
    assert tree.labels("existing", labels=rules[:2]) == ["one/left/a.png", "two/right/b_gt.png", None]
    # Of two suffixes the longer one is not part of the id.
    tree.add("images/left/a_rgb.jpg", "labels/left/a.png")
    tree.write_list("images/left/a_rgb.jpg")
    assert tree.labels(image_suffix=[".jpg", "_rgb.jpg"]) == ["labels/left/a.png"]


def test_each_label_has_the_map_of_its_own_rule(tree):
    # The second rule's files are in the first one's folder and have its suffix.
    tree.add("images/a.jpg", "images/b.jpg", "gt/a.png", "gt/b_ids.png")
    rules = [{"folder": "gt"}, {"folder": "gt", "suffix": "_ids.png", "map": {7: "a", 8: "b"}}]
    tree.write_list("a", "b")
    tree.content["labels"] = rules
    maps = [entry["label_map"] for entry in tree.entries()]
    assert maps[0] is None and maps[1].keys == (7, 8)
    # Also where a list names them, under a name that no rule gives.
    tree.add("gt/other_ids.png", "elsewhere/x.png")
    tree.write_list("images/a.jpg gt/other_ids.png", "images/b.jpg elsewhere/x.png")
    maps = [entry["label_map"].keys for entry in tree.entries(label_map={1: "a", 2: "b"})]
    assert maps == [(7, 8), (1, 2)]


def test_a_list_names_labels_of_a_data_set_without_rules(tree):
    tree.add("images/a.jpg", "masks/a_mask.png")
    tree.write_list("images/a.jpg masks/a_mask.png")
    del tree.content["labels"]
    (entry,) = tree.entries(label_map={0: "a", 255: "b"})
    assert entry["sem_seg_file_name"] == f"{tree.folder}/masks/a_mask.png"
    assert entry["label_map"].apply(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    (tree.folder / "masks/a_mask.png").unlink()
    with pytest.raises(InputError, match=r"1 of 1 label files are missing: .*/masks/a_mask\.png;"):
        tree.labels()


def test_a_label_folder_that_is_not_there_is_an_error(tree):
    tree.add("images/a.jpg", "annotations.json", "masks/b.png")
    tree.write_list("a")
    for labels, state in (("label", "does not exist"), ("annotations.json", "is a file")):
        for wanted in ("existing", "all"):
            with pytest.raises(InputError, match=rf"'labels' names the folder .*/{labels}, which {state}; correct it"):
                tree.entries(wanted, labels=labels)
        assert len(tree.entries("none", labels=labels)) == 1
    # One of several may be absent, as SBD's for VOC's own images.
    assert tree.labels("existing", labels=["label", "masks"]) == [None]

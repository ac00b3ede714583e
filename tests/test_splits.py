"""Parts of a data set: which images they hold, where the labels are, and what each label's values mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import write_definition

from rc2l_d2.data import load_definition
from rc2l_d2.data.datasets import splits
from rc2l_d2.data.datasets.splits import part_entries, part_images
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


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"list": "list.txt"}, r"holds no image: the list \S*/list\.txt is empty; fill it"),
        ({"folder": "more"}, r"the folder \S*/images/more has none whose name ends with \.jpg; correct the key 'fo"),
        ({"pattern": "n*/*.png"}, r"the pattern 'n\*/\*\.png' below \S*/images/ has none .*; correct the key 'pa"),
        ({"of": "all", "except": "all"}, r"holds no image, as part 'all' has every one of part 'all'; correct"),
        ({"of": "empty", "fraction": 0.5}, r"part 'empty' holds no image: the list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("labels", ["all", "existing", "none"])
def test_a_part_without_images_is_told_with_the_cause(tree, part, message, labels):
    tree.add("images/a.jpg", "images/more/b.tif", "images/more/c.txt")
    tree.list("")
    tree.content["parts"] = {"empty": {"list": "list.txt"}, "all": {"pattern": "*"}, "part": part}
    with pytest.raises(InputError, match=message):
        part_entries(tree.definition(), "part", labels)


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
    assert tree.images(parts={"part": {"pattern": "**/*.jpg"}}) == [*left[:1], "images/1/right/a.jpg", *left[1:],
                                                                  "images/left/e.jpg"]  # fmt: skip
    assert tree.images(parts={"part": {"pattern": "1/**"}}) == ["images/1/left/a.jpg", "images/1/right/a.jpg"]
    assert tree.images(parts={"part": {"pattern": "[12]/**/**/b*"}}) == ["images/2/left/b.jpg"]


def test_patterns_follow_links_once(tree, tmp_path):
    tree.add("images/more/deep/a.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.jpg").write_bytes(b"x")
    (tree.folder / "images/more/link").symlink_to(tmp_path / "elsewhere")
    # Two of them: Python's own glob would look into 2 ** 40 folders.
    for name in ("loop", "loop2"):
        (tree.folder / f"images/more/deep/{name}").symlink_to(tree.folder / "images/more")
    found = ["images/more/deep/a.jpg", "images/more/link/b.jpg"]
    for pattern in ("**/*.jpg", "more/**", "m*/**/*.jpg"):
        assert tree.images(parts={"part": {"pattern": pattern}}) == found


def test_folders_and_patterns_are_looked_through_once(tree):
    tree.add("images/more/a.jpg", "labels/more/a.png")
    sources = {"folder": {"folder": "more"}, "pattern": {"pattern": "more/*"}}
    before = {name: tree.images(parts={"part": source}) for name, source in sources.items()}
    tree.add("images/more/b.jpg")
    for name, source in sources.items():
        # What the loader sees is what was checked.
        assert tree.images(parts={"part": source}) == before[name] == ["images/more/a.jpg"]
    assert tree.images(parts={"part": {"folder": "."}}) == ["images/more/a.jpg", "images/more/b.jpg"]


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
    tree.content["parts"].update(drawn={"of": "part", "fraction": 0.5}, rest={"of": "part", "except": "drawn"})
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
    # No hidden files.
    tree.list("old/a.jpg", "old/c.jpg")
    with pytest.raises(InputError, match=r"1 of 2 image files are missing: .*/old/c\.jpg; .*/list\.txt \(paths in it"):
        part_entries(tree.definition(), "part", "none")
    # Nor one of two of one name.
    tree.list("old/a.jpg", "old/d.jpg")
    with pytest.raises(InputError, match=r"list \S*/list\.txt are not where .*, and for 1 of 2 there are .*'d'"):
        part_entries(tree.definition(), "part", "none")


def test_paths_in_lists_count_from_the_root(tree, tmp_path):
    tree.add("images/a.jpg")
    tree.list(str(tmp_path / "elsewhere/a.png"))
    del tree.content["labels"]
    (tree.folder / "images/a.jpg").unlink()
    with pytest.raises(InputError, match=rf"missing: {tree.folder}{tmp_path}/elsewhere/a\.png; .*\(paths .* root\)"):
        part_entries(tree.definition(), "part", "none")


def test_two_images_of_one_name_share_a_label_and_that_is_told(tree, caplog):
    tree.add("images/a.jpg", "images/a.png", "images/b.jpg", "labels/a.png", "labels/b.png")
    definition = tree.definition(parts={"part": {"folder": "."}}, image_suffix=[".jpg", ".png"])
    part_entries(definition, "part", "none")
    assert not caplog.records
    assert len(part_entries(definition, "part", "all")) == 3
    assert "part 'part': 1 images have the name of another but for the suffix, and share its label" in caplog.text


def test_labels_are_not_taken_for_unlabelled_images(tree):
    # An image, its label, and one more image.
    tree.add("images/a/rgb/1.png", "images/a/mask/1_m.png", "images/a/rgb/2_m.png")
    rule = {"folder": "images", "suffix": "_m.png", "replace": {"/rgb/": "/mask/"}}
    changes = {"image_suffix": ".png", "labels": rule}
    message = r"1 of \d images looked at are labels, \S*a/mask/1_m\.png among them, the label of \S*/a/rgb/1\.png"
    for part in ({"folder": "."}, {"pattern": "*/mask/*"}):
        with pytest.raises(InputError, match=message):
            tree.labels("none", parts={"part": part}, **changes)
    assert tree.labels("none", parts={"part": {"pattern": "*/rgb/*"}}, **changes) == [None, None]
    # Images beside labels of the same suffix, of which none is a label.
    tree.add("images/b/1.jpg", "images/b/2.png", "images/b/3.png")
    changes = {"image_suffix": [".jpg", ".png"], "labels": "images"}
    assert tree.labels("none", parts={"part": {"folder": "b"}}, **changes) == [None] * 3


def test_of_very_long_lists_some_images_are_looked_for(tree, monkeypatch, caplog):
    monkeypatch.setattr(splits, "LOOKUP_LIMIT", 9)
    monkeypatch.setattr(splits, "LOOKUP_SAMPLE", 4)  # The images 0, 3, 6 and 9.
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

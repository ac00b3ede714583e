"""Lists of images: read in every format, refused with one sentence, and written."""

import posixpath

import pytest
from conftest import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rc2l_d2.data.datasets.image_lists import read_list, write_list
from rc2l_d2.errors import InputError

needs_splits = pytest.mark.skipif(not (SHARED / "splits").is_dir(), reason="shared/splits is not beside the checkout")
bare = ["2007_000032", "2007_000039"]
images = ["leftImg8bit/train/jena/jena_0_leftImg8bit.png", "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"]
labels = ["gtFine/train/jena/jena_0_gtFine_labelTrainIds.png", "gtFine/train/ulm/ulm_1_gtFine_labelTrainIds.png"]
pairs = [f"{image} {label}" for image, label in zip(images, labels, strict=True)]
tab_pairs = [f"/{image}\t/{label}" for image, label in zip(images, labels, strict=True)]


def read(folder, content: str | bytes):
    file = folder / "list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return as_lists(file)


def as_lists(file):
    images, labels = read_list(file, "here")
    return list(images), None if labels is None else list(labels)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (pairs, (images, labels)),  # UniMatch, ST++
        (tab_pairs, (images, labels)),  # CPS, Cityscapes
        (images, (images, None)),  # U2PL, Cityscapes
        (bare, (bare, None)),  # U2PL and CPS, VOC; VOC's ImageSets
        (["train/a b/x", "train/c"], (["train/a b/x", "train/c"], None)),
        (["my photo.JPG", "b.jpg"], (["my photo.JPG", "b.jpg"], None)),
        (["my photo.jpg my label.png", "b.jpg c.png"], (["my photo.jpg", "b.jpg"], ["my label.png", "c.png"])),
        (["/my photo.jpg\t/my label.png"], (["my photo.jpg"], ["my label.png"])),
        (["a.jpg   c.png", "b.jpg d.png"], (["a.jpg", "b.jpg"], ["c.png", "d.png"])),
        (["a.jpg \t c.png", "b.jpg\td.png"], (["a.jpg", "b.jpg"], ["c.png", "d.png"])),
        (["./x/a.jpg", "//y/./b.jpg", "z//c.jpg"], (["x/a.jpg", "y/b.jpg", "z/c.jpg"], None)),
        (["z//c.jpg", "d.jpg"], (["z/c.jpg", "d.jpg"], None)),
        (["z/./c.jpg", "d.jpg"], (["z/c.jpg", "d.jpg"], None)),
        (["z/../c.jpg", "d.jpg"], (["c.jpg", "d.jpg"], None)),
        (["bär/straße.png", "道路.png"], (["bär/straße.png", "道路.png"], None)),
        (["./b/c.png", "/./d.png", ".//e.png", "./.f.png"], (["b/c.png", "d.png", "e.png", ".f.png"], None)),
        (["a//b.png c.png", "d.png e.png"], (["a/b.png", "d.png"], ["c.png", "e.png"])),
        (["x/", "y", ".", "./."], (["x", "y", ".", "."], None)),
        (["v1.5", "a..b"], (["v1.5", "a..b"], None)),
        (["a..b.jpg c..d.png"], (["a..b.jpg"], ["c..d.png"])),
        (["x/a.jpg,y/a.png", "x/b.jpg, y/b.png"], (["x/a.jpg", "x/b.jpg"], ["y/a.png", "y/b.png"])),
        (["a,b.jpg", "c.jpg"], (["a,b.jpg", "c.jpg"], None)),
        (["x\\a.jpg y\\a.png"], (["x/a.jpg"], ["y/a.png"])),
        (["image,label", "x/a.jpg,y/a.png"], (["x/a.jpg"], ["y/a.png"])),
        (["width;Mask Path;file_name", "7;/y/a.png;./x/a.jpg"], (["x/a.jpg"], ["y/a.png"])),
        (["image_id,width", "a,3", "b c,4"], (["a", "b c"], None)),
        (["image", "x/a.jpg"], (["x/a.jpg"], None)),
        (["image", "label"], (["image", "label"], None)),  # ids
        (["# 000.jpg", "#b.jpg"], (["# 000.jpg", "#b.jpg"], None)),  # names, not comments
    ],
)
def test_formats(tmp_path, lines, expected):
    # However the file was saved.
    for newline in ("\n", "\r\n", " \r\n", "\t\n"):
        for end in (newline, ""):
            assert read(tmp_path, newline.join(lines) + end) == expected
    assert read(tmp_path, "\ufeff" + "\n".join(lines)) == expected
    assert read(tmp_path, "\n\n" + "\n \n\n".join(lines) + "\n\t\n\n") == expected
    assert read(tmp_path, "".join(f" {line}  \n" for line in lines)) == expected
    for order in ("le", "be"):
        text = "\ufeff" + "\r\n".join(lines)
        assert read(tmp_path, text.encode(f"utf-16-{order}")) == expected


def test_comments_are_skipped(tmp_path):
    assert read(tmp_path, "# my list\n000\n # of two\n001\n") == (["000", "001"], None)
    assert read(tmp_path, "# image label\na.jpg a.png\n") == (["a.jpg"], ["a.png"])


@pytest.mark.parametrize("content", ["", "\n", "\r\n\n", " \n\t\n", "\ufeff"])
def test_empty_lists(tmp_path, content):
    assert read(tmp_path, content) == ([], None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("2007_000032\nJPEGImages/2007_000039.jpg\n", r"mixes ids \('2007_000032'\) and paths .*'JPEGImages/2007_0"),
        ("a.jpg b.png\nc.jpg\n", "not as many fields as the one before: 'c.jpg'"),
        ("a.jpg\nc.jpg d.png\n", "not as many fields as the one before: 'c.jpg d.png'"),
        ("a.jpg b.png\nc.jpg d.png e.png\n", "more than an image and a label: 'c.jpg d.png e.png'"),
        ("a.jpg b.png c.png\n" * 3, "more than an image and a label"),
        ("/a.jpg\t/b.png\t/c.png\n", "more than an image and a label"),
        ("../a.jpg\n", r"names '\.\./a\.jpg', outside"),
        ("x/../../a.jpg\nb.jpg\n", "outside"),
        ("/../a.jpg b.png\n", "outside"),
        ("a.jpg ../b.png\n", "outside"),
        ("a.jpg\n..\n", "outside"),
        ("image,label,split\na.jpg,b.png,train\n", "the column 'split', but all rows would be used"),
        ("image,file\na.jpg,b.jpg\n", "several columns of images or labels"),
        ("image,label\na.jpg\n", "a row of 1 columns below a header of 2"),
        ("image,label_image\na.jpg,b.png\n", "files in the column 'label_image', which is not used; call it 'label'"),
        ("image,label\na.jpg,\n", "an empty image or label"),
        ("image,label\n../a.jpg,b.png\n", "outside"),
        (b"caf\xe9.jpg\n", "is not UTF-8 text"),
        ("a.jpg\n".encode("utf-16")[:-1], "is not UTF-8 text"),
        (b"a.jpg\n\xc3", "is not UTF-8 text"),
    ],
)
def test_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"^here: the list {tmp_path}/list\.txt .*{message}") as caught:
        read(tmp_path, content)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@needs_splits
@pytest.mark.parametrize(
    ("split", "labeled", "unlabeled"),
    [
        ("pascal/92", 92, 10490),
        ("pascal/183", 183, 10399),
        ("pascal/366", 366, 10216),
        ("pascal/1464", 1464, 9118),
        ("pascal/u2pl_1_8", 1323, 9259),
        ("cityscapes/1_16", 186, 2789),
        ("cityscapes/1_8", 372, 2603),
    ],
)
def test_published_lists(split, labeled, unlabeled):
    folder = SHARED / "splits" / split
    files = [folder / "labeled.txt", folder / "unlabeled.txt", folder.parent / "val.txt"]
    lists = [as_lists(file) for file in files]
    for file, (found_images, found_labels) in zip(files[:2], lists, strict=False):
        lines = [line.split() for line in file.read_text().splitlines()]
        assert found_images == [line[0] for line in lines] and found_labels == [line[1] for line in lines]
    first, second, val = (set(images) for images, _ in lists)
    val_size, total = {"pascal": (1449, 10582), "cityscapes": (500, 2975)}[split.split("/")[0]]
    assert [len(images) for images, _ in lists] == [len(first), len(second), len(val)] == [labeled, unlabeled, val_size]
    assert not (first & second or first & val or second & val) and len(first | second) == total


# No blanks at the ends of a name, no suffix before a blank within one.
words = st.text(st.sampled_from("ab01_-.()é道Ä"), min_size=1, max_size=6).filter(lambda word: word.strip("."))
ids = st.builds(
    lambda folders, name: "/".join([*folders, " ".join(name)]),
    st.lists(words, max_size=3), st.lists(words, min_size=1, max_size=2),
)  # fmt: skip
paths = st.tuples(ids, st.sampled_from([".jpg", ".png", ".JPG", ".jpeg"])).map("".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(paths, paths), max_size=6), st.booleans())
def test_lists_written_are_read(tmp_path_factory, couples, with_labels):
    file = tmp_path_factory.getbasetemp() / "written.txt"
    first = [posixpath.normpath(image) for image, _ in couples]
    second = [posixpath.normpath(label) for _, label in couples]
    write_list(file, first, second if with_labels else [None] * len(first))
    assert as_lists(file) == (first, second if with_labels and first else None)
    assert file.read_bytes().count(b"\n") == len(first)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
any_paths = st.builds(lambda name, suffix: f"x/{name}{suffix}", names, st.sampled_from([".jpg", ".png"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(any_paths, any_paths), max_size=4), st.booleans())
@example([("x/IMG_1.jpg (1).jpg", "x/photo.png copy.png"), ("x/a.jpg", "x/a.png")], True)
@example([("x/IMG_1.jpg (1).jpg", ""), ("x/a.jpg", "")], False)
@example([("x/a\tb.jpg", "x/a\nb.png")], True)
@example([("x/\n.jpg", "")], False)
@example([("x/a\\b.jpg", "x/ .png")], True)
@example([("x/a.jpg,b.jpg", "")], False)
def test_lists_written_are_read_whatever_the_names(tmp_path_factory, couples, with_labels):
    file = tmp_path_factory.getbasetemp() / "written.txt"
    first, second = [image for image, _ in couples], [label for _, label in couples]
    write_list(file, first, second if with_labels else [None] * len(first))
    assert as_lists(file) == (first, second if with_labels and first else None)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(InputError, match="A file name holds .*, which is not UTF-8; rename the file"):
        write_list(tmp_path / "list.txt", ["caf\udce9.jpg"], [None])


def test_written_in_unimatchs_format(tmp_path):
    write_list(tmp_path / "list.txt", ["JPEGImages/a.jpg", "b.jpg"], ["SegmentationClass/a.png", "c.png"])
    assert (tmp_path / "list.txt").read_bytes() == b"JPEGImages/a.jpg SegmentationClass/a.png\nb.jpg c.png\n"

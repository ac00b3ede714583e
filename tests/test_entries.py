"""Entries made on access, and images found twice, also through links."""

import pickle

import numpy as np
import pytest
from torch.utils.data import ConcatDataset

from rc2l_d2.data.datasets import entries
from rc2l_d2.data.datasets.entries import FileList, common_files, image_id, labels_among, repeated_files
from rc2l_d2.data.datasets.packed import PackedStrings
from rc2l_d2.data.labels.label_map import LabelMap

MAP = LabelMap.from_yaml({0: "a", 255: "b"}, ["a", "b"], [(0, 0, 0), (1, 1, 1)], 255)


def images(*paths: str) -> FileList:
    return FileList(PackedStrings.of(paths), "/data/images/", [".jpg"])


def test_entries():
    entries = FileList(
        PackedStrings.of(["a/1.jpg", "2.JPG", "3.jpg"], prefix="/data/images/"),
        "/data/images/",
        [".jpg"],
        PackedStrings.of(["l/1.png", "", "l/3.png"], prefix="/data/"),
        [None, MAP],
        np.array([1, -1, 0]),
    )
    expected = [
        {"file_name": "/data/images/a/1.jpg", "image_id": "a/1", "sem_seg_file_name": "/data/l/1.png",
         "label_map": MAP},
        {"file_name": "/data/images/2.JPG", "image_id": "2"},
        {"file_name": "/data/images/3.jpg", "image_id": "3", "sem_seg_file_name": "/data/l/3.png", "label_map": None},
    ]  # fmt: skip
    assert len(entries) == 3 and list(entries) == expected
    assert entries[-1] == expected[-1]
    assert list(pickle.loads(pickle.dumps(entries))) == expected
    for outside in (3, -4):
        with pytest.raises(IndexError):
            entries[outside]
    # Every access returns a new dict.
    entries[0]["file_name"] = "changed"
    assert entries[0] == expected[0]


@pytest.mark.parametrize(
    ("path", "suffixes", "expected"),
    [
        ("/d/a.jpg", [".jpg"], "a"),
        ("/d/a.b/c.d.JPG", [".jpg"], "a.b/c.d"),
        ("/d/x_leftImg8bit.png", ["_leftImg8bit.png"], "x"),
        ("/d/x_leftImg8bit.png", [".png", "_leftImg8bit.png"], "x"),
        ("/d/x.tif", [".png"], "x"),
        ("/d/x", [".png"], "x"),
        ("/e/x.png", [".png"], "/e/x"),
    ],
)
def test_ids(path, suffixes, expected):
    assert image_id(path, "/d/", suffixes) == expected
    assert FileList(PackedStrings.of([path]), "/d/", suffixes)[0]["image_id"] == expected


@pytest.fixture
def linked(tmp_path):
    """Paths of three files, of a link to the first, and of the second through a link to the folder."""
    folder = tmp_path / "real"
    folder.mkdir()
    real = [str(folder / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    for path in real:
        open(path, "wb").close()
    (tmp_path / "link.jpg").symlink_to(real[0])
    (tmp_path / "folder").symlink_to(folder)
    return real, str(tmp_path / "link.jpg"), str(tmp_path / "folder/b.jpg")


def test_common_files(linked):
    real, link, through = linked
    assert common_files(images(*real), images(real[2], real[0], "/other")) == [real[0], real[2]]
    assert common_files(images(*real), images()) == []
    assert common_files(images(real[0]), images(real[1], real[2])) == []
    # The names are those of the longer list.
    assert common_files(images(*real), images(link)) == [real[0]]
    assert common_files(images(link), images(*real)) == [real[0]]
    assert common_files(images(*real), images(link, through)) == real[:2]
    assert common_files(images(real[0]), images(link, through)) == [link]
    assert common_files(ConcatDataset([images(*real), [{"file_name": link}]]), [{"file_name": real[1]}]) == [real[1]]


def test_repeated_files(linked):
    real, link, _ = linked
    assert repeated_files(images(*real)) == []
    assert repeated_files(images(*real, real[2], real[1])) == real[1:]
    assert repeated_files(images(*real, link)) == real[:1]
    assert repeated_files(ConcatDataset([images(*real), images(link)])) == real[:1]


def test_long_lists_are_compared_by_name(linked, monkeypatch):
    monkeypatch.setattr(entries, "_RESOLVE_LIMIT", 2)
    real, link, through = linked
    assert common_files(images(*real), images(link, real[1])) == real[:2]
    assert common_files(images(*real[1:]), images(link, through, real[2])) == [real[2]]
    assert repeated_files(images(*real, link)) == []
    assert repeated_files(ConcatDataset([images(*real), images(real[0])])) == real[:1]


@pytest.mark.parametrize("limit", [0, 100])
def test_labels_among_images(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(entries, "_RESOLVE_LIMIT", limit)
    labels = PackedStrings.of(["a.png", "", "c.png"], prefix="/data/images/")
    labelled = FileList(PackedStrings.of(["/d/a.jpg", "/d/b.jpg", "/d/c.jpg"]), "/d/", [".jpg"], labels, [None],
                        np.array([0, -1, 0]))  # fmt: skip
    plain = [{"file_name": "/e/x.jpg", "sem_seg_file_name": "/data/images/x.png"}, {"file_name": "/e/y.jpg"}]
    found = ["/data/images/a.png", "/data/images/x.png"]
    wanted = images("/data/images/x.png", "/data/images/b.png", "/data/images/", "/data/images/a.png", "/d/a.jpg")
    assert labels_among(ConcatDataset([labelled, plain]), wanted) == found
    assert labels_among(ConcatDataset([labelled, plain]), [{"file_name": path} for path in found[:1]]) == found[:1]
    assert labels_among(images("/data/images/a.png"), wanted) == []

"""Classes found in label files of every form, and their names."""

import numpy as np
import pytest
from data_files import write_label
from PIL import Image

from rc2l_d2.data.datasets.description import voc_color_map
from rc2l_d2.data.labels.label_classes import name_classes, read_raw_labels
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.loading.reading import read_label
from rc2l_d2.errors import InputError

SIZE = (12, 16)


@pytest.fixture
def labels(tmp_path):
    """Write label files with the given values, each equally often; returns their paths."""

    def write(*files, dtype=np.uint8, palette=None):
        paths = []
        for index, values in enumerate(files):
            label = np.resize(np.array(values, dtype), (*SIZE, *np.shape(values)[1:]))
            paths.append(tmp_path / f"{len(list(tmp_path.iterdir()))}.png")
            if palette is None:
                write_label(paths[-1], label)
            else:
                image = Image.fromarray(label)
                # All 256: of a shorter one Pillow saves as few bits as it needs.
                image.putpalette((palette[index] if isinstance(palette[0], list) else palette) + [0] * 759)
                image.save(paths[-1])
        return [str(path) for path in paths]

    return write


def found(paths, names=()):
    return name_classes(read_raw_labels(paths), names, "masks")


def assert_read_as(classes, paths, expected):
    """The written map gives these class indices for the files' first pixels."""
    raw = classes.label_map()
    label_map = None if raw is None else LabelMap.from_yaml(raw, classes.names, classes.palette, 255)
    for path, indices in zip(paths, expected, strict=True):
        assert read_label(path, label_map).ravel()[: len(indices)].tolist() == indices


def test_values_that_are_indices_need_no_map(labels):
    paths = labels([0, 1, 2, 255], [0, 2])
    classes = found(paths, ["road", "car", "person"])
    assert classes.names == ("road", "car", "person") and classes.keys == (0, 1, 2) and classes.ignored == (255,)
    assert classes.label_map() is None and classes.palette == voc_color_map(3)
    assert classes.pixels.tolist() == [[48, 48, 48], [96, 0, 96]]
    assert found(paths).names == ("class0", "class1", "class2")


def test_palettes_give_the_classes_their_colours(labels):
    colors = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    classes = found(labels([0, 2], [1, 255], palette=colors))
    assert classes.keys == (0, 1, 2) and not classes.colors and classes.ignored == (255,)
    assert classes.palette == ((10, 20, 30), (40, 50, 60), (70, 80, 90))
    # One colour for all classes is not used.
    assert found(labels([0, 2], palette=[0] * 9)).palette == voc_color_map(2)


def test_contradicting_palettes_are_read_as_colours(labels):
    paths = labels([0, 1], [0, 1], palette=[[0, 0, 0, 255, 0, 0, 1, 2, 3], [0, 0, 0, 0, 255, 0, 1, 2, 3]])
    classes = found(paths, ["background", "green", "red"])
    assert classes.colors and classes.palette == ((0, 0, 0), (0, 255, 0), (255, 0, 0))
    assert_read_as(classes, paths, [[0, 2], [0, 1]])


@pytest.mark.parametrize(
    ("values", "names", "keys", "expected"),
    [
        ([0, 255], [], (0, 255), ("class0", "class255")),  # a mask
        ([0, 255], ["back", "front"], (0, 255), ("back", "front")),
        ([0, 1, 255], ["back", "front"], (0, 1), ("back", "front")),
        ([0, 128, 255], [], (0, 128), ("class0", "class128")),
        ([0, 128, 255], ["a", "b", "c"], (0, 128, 255), ("a", "b", "c")),
        ([3, 7, 21], ["a", "b", "c"], (3, 7, 21), ("a", "b", "c")),
        ([0, 1, 2], ["ignore", "a", "b"], (1, 2), ("a", "b")),
        # Without "bus", whose value never occurs.
        ([0, 3, 255], ["road", "bus", "ignore", "car"], (0, 3), ("road", "car")),
    ],
)
def test_masks_gaps_and_ignored_values(labels, values, names, keys, expected):
    paths = labels(values)
    classes = found(paths, names)
    assert classes.keys == keys and classes.names == expected
    assert classes.left_out == (("bus",) if "bus" in names else ())
    assert set(classes.ignored) == set(values) - set(keys)
    assert_read_as(classes, paths, [[keys.index(value) if value in keys else 255 for value in values]])


def test_colours(labels):
    border, red, black, blue = [224, 224, 192], [255, 0, 0], [0, 0, 0], [0, 0, 128]
    paths = labels([black, red, border], [blue, black, border])
    classes = found(paths)
    assert classes.colors and classes.names == ("class0", "class1", "class2")
    assert classes.palette == ((0, 0, 0), (0, 0, 128), (255, 0, 0)) and classes.ignored == (0xE0E0C0,)
    assert classes.label_map() == {
        "#000000": "class0", "#000080": "class1", "#ff0000": "class2", "#e0e0c0": "ignore"
    }  # fmt: skip
    assert_read_as(classes, paths, [[0, 2, 255], [1, 0, 255]])
    assert found(paths, ["a", "b", "c", "d"]).names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("values", "dtype"), [([0, 1], bool), ([0, 1000], np.uint16), ([[0, 0, 0], [5, 5, 5]], np.uint8)]
)
def test_other_ways_to_save_values(labels, values, dtype):
    paths = labels(values, dtype=dtype)
    classes = found(paths, ["off", "on"])
    assert classes.keys == tuple(np.unique(values)) and not classes.colors
    assert_read_as(classes, paths, [[0, 1, 0]])


def refused(paths, names, message):
    with pytest.raises(InputError, match=message) as caught:
        found(paths, names)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_refused_labels_and_names(labels, tmp_path):
    refused(labels([7], [7]), [], r"labels in masks hold one value only \(7\); a model needs two classes")
    refused(labels([255]), [], "one value only")
    refused(labels(range(100)), [], "hold 100 values, probably because masks were resized smoothly")
    refused(labels(range(100)), ["a", "b"], r"--classes has 2 names, but .* hold 100 values \(0, 1, .*, 9, \.\.\.\)")
    refused(labels([0, 5, 255]), ["a", "b", "c", "d"], r"--classes has 4 names, but .* hold 2 values \(0, 5\)")
    refused(labels([0, 1]), ["a", "a"], "--classes names 'a' twice")
    refused(labels([0, 1]), ["a", ""], "--classes has an empty name")
    refused(labels([0, 1]), ["a", "ignore"], "--classes leaves fewer than two classes")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "label.jpg")
    refused([str(tmp_path / "label.jpg")], [], "label.jpg: the label file is a JPEG")
    Image.fromarray(np.full(SIZE, -1, np.int32)).save(tmp_path / "label.tif")
    refused([str(tmp_path / "label.tif")], [], "label.tif: the label image has values from -1 to -1; use 0 to 65535")

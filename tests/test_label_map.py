"""Maps of raw label values: binary masks, 16-bit values, colours; and maps and labels that are refused."""

import pickle

import numpy as np
import pytest
import yaml

from rc2l_d2.data.labels.label_map import LabelMap, UnlistedValueError

CLASSES = ["background", "thing"]
PALETTE = [(0, 0, 0), (220, 20, 60)]


def label_map(raw, classes=CLASSES, palette=PALETTE, ignore_value=255):
    return LabelMap.from_yaml(yaml.safe_load(raw), classes, palette, ignore_value)


def test_binary_masks():
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    mapped = label_map("{0: background, 255: thing}").apply(mask)
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[0, 1], [1, 0]]
    # 255 as a target is the ignore value, as a key a value like any other.
    assert label_map("{0: 255, 255: 1}").apply(mask).tolist() == [[255, 1], [1, 255]]


def test_16_bit_values_and_other():
    values = np.array([[0, 1000, 26001, 65535]], np.uint16)
    with_other = label_map("{0: background, 26001: thing, other: ignore}", ignore_value=200)
    assert with_other.apply(values).tolist() == [[0, 200, 1, 200]]
    assert with_other.apply(np.array([[-1, 70000, 26001]], np.int32)).tolist() == [[200, 200, 1]]
    with pytest.raises(UnlistedValueError, match=r"values .* \(2\): 1000, 65535; "):
        label_map("{0: background, 26001: thing}").apply(values)
    with pytest.raises(UnlistedValueError, match=r"values .* \(9\): 1, 2, 3, 4, 5, ...;"):
        label_map("{0: 0}").apply(np.arange(10, dtype=np.uint8).reshape(2, 5))


def test_colours():
    image = np.array([[[0, 0, 0], [220, 20, 60]], [[255, 255, 255], [0, 0, 0]]], np.uint8)
    mapped = label_map("{'#000000': background, '#DC143C': thing, '#ffffff': ignore}").apply(image)
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[0, 1], [255, 0]]
    assert label_map("{'#dc143c': 1, other: background}").apply(image).tolist() == [[0, 1], [0, 0]]
    assert label_map("palette").apply(image[:1]).tolist() == [[0, 1]]
    with pytest.raises(UnlistedValueError, match=r"colours .* \(1\): '#ffffff'; .*'other: ignore'"):
        label_map("palette").apply(image)


def test_colours_agree_with_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    palette = rng.choice(2**24, 40, replace=False)
    colors = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], 1).astype(np.uint8)
    sampled = rng.integers(0, 40, (50, 70))
    raw = {f"#{color:06x}": int(index % 30) for index, color in enumerate(palette)}
    mapped = LabelMap.from_yaml(raw, [f"c{index}" for index in range(30)], [], 255).apply(colors[sampled][:, ::-1])
    assert (mapped == (sampled % 30)[:, ::-1]).all()


def test_is_small_and_equal_after_pickling():
    original = label_map("palette")
    original.apply(np.zeros((2, 2, 3), np.uint8))
    data = pickle.dumps(original)
    assert len(data) < 1000 and pickle.loads(data) == original


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        ("colours", "it is 'colours'"),
        ("[0, 1]", r"it is \[0, 1\]"),
        ("{}", r"it is \{\}"),
        ("{other: ignore}", "it is {'other'"),
        ("{0: sky}", "0 becomes 'sky', which is no class name and no index from 0 to 1"),
        ("{0: 2}", "0 becomes 2"),
        ("{0: true}", "0 becomes True"),
        ("{0: [1]}", r"0 becomes \[1\]"),
        ("{0: 0, other: nothing}", "'other' becomes 'nothing'"),
        ("{-1: ignore}", "-1 is neither"),
        ("{65536: ignore}", "65536 is neither"),
        ("{true: 1}", "True is neither"),
        ("{'#12345': 1}", "'#12345' is neither"),
        ("{red: 1}", "'red' is neither"),
        ("{0: 0, '#ffffff': 1}", "both values and colours"),
        ("{'#ffffff': 0, '#FFFFFF': 1}", "a colour twice"),
        ("palette", "two classes one colour"),
    ],
)
def test_invalid_maps(raw, fragment):
    with pytest.raises(ValueError, match=rf"^a mapping from .* the word palette \(.*{fragment}"):
        label_map(raw, palette=[(0, 0, 0), (0, 0, 0)])

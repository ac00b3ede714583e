"""Classes found in label files of every form, and their names."""

import numpy as np
import pytest
from data_files import write_label
from PIL import Image, ImageDraw

from rc2l_d2.data.labels.class_names import ClassNames, may_be_none, parse_class_names
from rc2l_d2.data.labels.label_classes import IgnoredKeys, name_classes, no_data_notes, read_masks
from rc2l_d2.data.labels.label_map import voc_color_map
from rc2l_d2.data.labels.raw_labels import read_raw_labels
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


def found(paths, names="", ignore="", tolerance=0):
    names = parse_class_names(names) if isinstance(names, str) else ClassNames(tuple(names))
    return name_classes(read_raw_labels(paths), names, "masks", IgnoredKeys.parse(ignore), tolerance)


def assert_read_as(classes, paths, expected):
    """The written map gives these class indices for the files' first pixels."""
    label_map = classes.read_map()
    for path, indices in zip(paths, expected, strict=True):
        assert read_label(path, label_map).ravel()[: len(indices)].tolist() == indices


def test_values_that_are_indices_need_no_map(labels):
    paths = labels([0, 1, 2, 255], [0, 2])
    classes = found(paths, ["road", "car", "person"], ignore="255")
    assert classes.names == ("road", "car", "person") and classes.keys == (0, 1, 2) and classes.ignored == (255,)
    assert classes.label_keys() == {} and classes.palette == voc_color_map(3)
    assert classes.pixels.tolist() == [[48, 48, 48], [96, 0, 96]]
    assert classes.ignored_pixels == {255: 48} and not classes.guessed
    assert found(paths, ignore="255").names == ("class0", "class1", "class2")


def test_palettes_give_the_classes_their_colours(labels):
    colors = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    classes = found(labels([0, 2], [1, 255], palette=colors), ignore="255")
    assert classes.keys == (0, 1, 2) and not classes.colors and classes.ignored == (255,)
    assert classes.palette == ((10, 20, 30), (40, 50, 60), (70, 80, 90))
    # One colour for all classes is not used.
    assert found(labels([0, 2], palette=[0] * 9)).palette == voc_color_map(2)


def test_contradicting_palettes_are_read_as_colours(labels):
    paths = labels([0, 1], [0, 1], palette=[[0, 0, 0, 255, 0, 0, 1, 2, 3], [0, 0, 0, 0, 255, 0, 1, 2, 3]])
    classes = found(paths, "#000000=background,#00ff00=green,#ff0000=red")
    assert classes.colors and classes.palette == ((0, 0, 0), (0, 255, 0), (255, 0, 0))
    assert_read_as(classes, paths, [[0, 2], [0, 1]])


@pytest.mark.parametrize(
    ("values", "names", "ignore", "keys", "expected"),
    [
        ([0, 255], "", "", (0, 255), ("class0", "class255")),  # a mask
        ([0, 255], "back,front", "", (0, 255), ("back", "front")),
        ([0, 1, 255], "back,front", "255", (0, 1), ("back", "front")),
        ([0, 1, 255], "0=back,1=front,255=ignore", "", (0, 1), ("back", "front")),
        ([0, 128, 255], "", "255", (0, 128), ("class0", "class128")),
        ([0, 128, 255], "0=a,128=b,255=c", "", (0, 128, 255), ("a", "b", "c")),
        ([3, 7, 21], "21=c,3=a,7=b", "", (21, 3, 7), ("c", "a", "b")),
        ([1, 2, 3], "1=a,2=b,3=c", "", (1, 2, 3), ("a", "b", "c")),
        ([0, 1, 2], "ignore,a,b", "", (1, 2), ("a", "b")),
        ([0, 1, 2, 9], "1=a,2=b", "other", (1, 2), ("a", "b")),
        # A value between the first and the last may be absent: "bus" has no pixel.
        ([0, 2, 255], "road,bus,car", "255", (0, 2), ("road", "car")),
    ],
)
def test_masks_gaps_and_ignored_values(labels, values, names, ignore, keys, expected):
    paths = labels(values)
    classes = found(paths, names, ignore)
    assert classes.keys == keys and classes.names == expected
    assert classes.left_out == (("bus",) if "bus" in names else ())
    assert set(classes.ignored) == set(values) - set(keys)
    assert_read_as(classes, paths, [[keys.index(value) if value in keys else 255 for value in values]])


@pytest.mark.parametrize(
    ("values", "names", "ignore", "message"),
    [
        ([1, 2, 3], "a,b,c", "", r"hold 3 values \(1, 2, 3\).*--classes '1=a,2=b,3=c'"),  # ids from 1
        ([1, 2], "a,b,c", "", r"has 3 names, but .* hold 2 values \(1, 2\)"),  # from 1, or 0 absent
        ([0, 1, 3, 4], "a,b,c,d", "", r"--classes '0=a,1=b,3=c,4=d'"),  # a hole
        ([0, 1, 2], "a,b,c,d", "", r"--classes '0=a,1=b,2=c'"),  # the last class absent
        ([0, 1, 2], "a,b", "", r"--classes '0=a,1=b,2=NAME'"),  # fewer names
        ([0, 1, 255], "a,b,c", "", r"--classes '0=a,1=b,255=c'"),
        ([0, 1, 2], '"x, y",b', "", r"--classes '\"0=x, y\",1=b,2=NAME'"),
        ([0, 1, 2], "0=a,1=b", "", r"no name for 2, but .*; add 2=NAME, or --ignore 2 \(--ignore other"),
        ([0, 1, 2], "#000000=a,#000001=b", "", "--classes names colours, but the labels in masks hold 3 values"),
        ([0, 1, 2], "__ignore__,_background_,a,b", "", "'__ignore__' of labelme's lists, which count from -1"),
        ([0, 1, 2], "a,_background_,b", "", "'_background_' of labelme's lists"),
        ([0, 1, 255], "a,b", "", r"255 on 64 pixels \(33 % of all\) in 1 files, .* --ignore 255"),
        ([0, 1, 2], "a,b", "blue", "--ignore is blue; give values, colours"),
        ([0, 1, 2], "a,b", "other", "--ignore other needs names with values"),
    ],
)
def test_names_that_could_meet_values_wrongly(labels, values, names, ignore, message):
    with pytest.raises(InputError, match=message) as caught:
        found(labels(values), names, ignore)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


PANOPTIC = [[[0, 0, 0], *np.random.default_rng(index).integers(0, 250, (3, 3)).tolist()] for index in range(4)]


@pytest.mark.parametrize(
    ("files", "dtype", "sign"),
    [
        ([[7, 1793, 2049], [7, 1793]], np.uint16, r"values above 255 \(1793, 2049\)"),  # KITTI: 256 times the class
        ([range(4), range(9), range(2), range(6)], np.uint8, "values that count up in each file"),  # Cellpose
        (PANOPTIC, np.uint8, "colours of one file each"),
    ],
)
def test_labels_of_instances_are_no_classes_unasked(labels, files, dtype, sign):
    paths = labels(*map(list, files), dtype=dtype)
    with pytest.raises(InputError, match=rf"have {sign}, as labels of instances do; name a folder of class labels, or"):
        found(paths)
    if dtype == np.uint16:
        assert found(paths, "7=road,1793=one,2049=two").keys == (7, 1793, 2049)


def test_many_classes_are_no_instances(labels):
    assert len(found(labels(list(range(8)), [0, 2, 7], [0, 1], [0, 1, 2])).names) == 8
    assert len(found(labels(*[list(range(9))] * 4)).names) == 9
    assert len(found(labels([0, 1], [0, 1, 2, 3, 4], list(range(9)))).names) == 9, "three files may be a sample"


def test_few_pixels_of_255_are_no_class(labels, tmp_path):
    paths = labels([0, 1, 2, 3] * 48)
    spot = np.array(Image.open(paths[0]))
    spot[0, 0] = 255
    write_label(tmp_path / "0.png", spot)
    classes = found(paths, "a,b,c,d")
    assert classes.guessed == classes.ignored == (255,) and classes.ignored_pixels == {255: 1}
    spot[0, :2] = 255  # 1.04 %
    write_label(tmp_path / "0.png", spot)
    refused(paths, "", r"255 on 2 pixels \(1 % of all\)")
    # Whoever names all other values says that it is no class, unless it may be the object of a mask.
    assert found(paths, "a,b,c,d").guessed == (255,)
    spot[1:] = 0
    spot[0, 2:] = 0
    write_label(tmp_path / "1.png", spot)
    refused([*paths, str(tmp_path / "1.png")], "a,b,c,d", r"255 on 4 pixels .* in 2 files")


def test_masks_of_two_programs_are_recognised(labels):
    # However small the object is.
    ones = labels(*[[0] * 191 + [1]] * 2, *[[0] * 191 + [255]] * 2)
    refused(ones, "a,b", r"255 on 2 pixels \(0.26 % of all\) in 2 files, and 1 in the others, .*--threshold 1 if")
    classes = read_masks(ones, 1, parse_class_names("back,front"), "masks")
    assert classes.pixels.tolist() == [[191, 1]] * 4 and classes.label_keys() == {"threshold": 1}
    with pytest.raises(InputError, match="holds 0 and 1, which a threshold of 128 would make empty"):
        read_masks(ones, 128, parse_class_names("back,front"), "masks")


def test_names_of_masks_belong_to_the_side_of_the_threshold_that_their_values_are_on(labels):
    masks = labels(*[[0] * 150 + [255] * 42] * 2)
    for text in ("ground,road", "0=ground,255=road", "255=road,0=ground", "#ff0000=road,#000000=ground"):
        classes = read_masks(masks, 128, parse_class_names(text), "masks")
        assert classes.names == ("ground", "road") and classes.pixels.tolist() == [[150, 42]] * 2, text
    for text, message in (
        ("0=ground,1=road", "gives both names to values below --threshold 128; name one below it"),
        ("#ff0000=road,#00ff00=ground", "gives both names to values from --threshold 128; name one below it"),
        ("road,ignore", "gives every pixel a class, but --classes has the name 'ignore'; give others"),
        ("a,b,c", "--classes has 3 names; give two"),
    ):
        with pytest.raises(InputError, match=message):
            read_masks(masks, 128, parse_class_names(text), "masks")


@pytest.mark.parametrize(("value", "name"), [(0, "ground"), (255, "road")])
def test_values_of_masks_that_are_marked_as_no_data_are_noted(tmp_path, value, name):
    values = np.zeros((8, 8), np.uint8)
    values[2:4] = 255
    Image.fromarray(values).save(tmp_path / "0.tif", tiffinfo={42113: str(value)})  # GDAL's tag
    paths = [str(tmp_path / "0.tif")]
    (note,) = no_data_notes(paths, read_masks(paths, 128, parse_class_names("ground,road"), "masks"))
    assert note.startswith(f"1 labels mark {value} as no data, but it is the class {name}; leave --threshold out, name")


def drawn(folder, draw, mode, count=2):
    """Write labels that are drawn at 256 x 256 pixels and resized smoothly to 64 x 64."""
    paths = []
    for index in range(count):
        image = Image.new(mode, (256, 256))
        draw(ImageDraw.Draw(image), index)
        image.resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
        paths.append(str(folder / f"{index}.png"))
    return paths


def test_smooth_edges_are_recognised(tmp_path):
    paths = drawn(tmp_path, lambda draw, i: draw.ellipse((60, 60, 160 + i, 190), fill=255), "L")
    refused(paths, "", r"edges drawn or resized smoothly.*--threshold 128 for masks of one object")
    refused(paths, "back,front", "--threshold 128")
    classes = read_masks(paths, 128, ClassNames(), "masks")
    expected = [(np.array(Image.open(path)) >= 128).sum() for path in paths]
    assert classes.pixels[:, 1].tolist() == expected and classes.names == ("background", "object")

    paths = drawn(tmp_path, lambda draw, i: draw.ellipse((60, 60, 160 + i, 190), fill=(255, 0, 0)), "RGB")
    refused(paths, "", "--threshold 128 for masks of one object")
    assert read_masks(paths, 128, ClassNames(), "masks").pixels[:, 1].tolist() == expected

    # Indices of classes that were resized smoothly have classes of their own along edges.
    def steps(draw, index):
        draw.rectangle((40, 40, 200, 200), fill=3)
        draw.rectangle((70, 70, 170, 170 + index), fill=6)

    refused(drawn(tmp_path, steps, "L"), "a,b,c,d,e,f,g", r"hold \d values on \d+ pixels .*'0=NAME,3=NAME,6=NAME'")


def test_colours_a_few_levels_off(tmp_path):
    expected = np.zeros((64, 64), np.uint8)
    expected[8:40, 8:40], expected[40:56, 40:56] = 1, 2
    paths = []
    for index in range(2):
        label = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)[expected]
        label[8:40, 8:24] = (127, 1, 0) if index else (128, 0, 0)
        label[60, 60] = (40, 40, 40)  # a mixture
        write_label(tmp_path / f"{index}.png", label)
        paths.append(str(tmp_path / f"{index}.png"))
    expected[60, 60] = 255
    names = "#000000=background,#800000=car,#008000=tree"
    refused(paths, "", r"#7f0100.*--classes '#000000=NAME,#008000=NAME,#800000=NAME' with --tolerance 8 --ignore other")
    with pytest.raises(InputError, match="no name for #282828"):
        found(paths, names, tolerance=8)
    classes = found(paths, names, ignore="other", tolerance=8)
    assert classes.label_keys()["label_map"] == {
        "#000000": "background", "#008000": "tree", "#800000": "car", "tolerance": 8, "other": "ignore"
    }  # fmt: skip
    assert classes.names == ("background", "car", "tree") and classes.ignored_pixels == {0x282828: 2}
    for path in paths:
        assert (read_label(path, classes.read_map()) == expected).all()
    assert classes.pixels.tolist() == [[(expected == k).sum() for k in range(3)]] * 2


def test_colours(labels):
    border, red, black, blue = [224, 224, 192], [255, 0, 0], [0, 0, 0], [0, 0, 128]
    paths = labels([black, red, border], [blue, black, border])
    classes = found(paths, ignore="#e0e0c0")
    assert classes.colors and classes.names == ("class0", "class1", "class2")
    assert classes.palette == ((0, 0, 0), (0, 0, 128), (255, 0, 0)) and classes.ignored == (0xE0E0C0,)
    assert classes.label_keys()["label_map"] == {
        "#000000": "class0", "#000080": "class1", "#ff0000": "class2", "#e0e0c0": "ignore"
    }  # fmt: skip
    assert_read_as(classes, paths, [[0, 2, 255], [1, 0, 255]])
    named = "#000000=a,#000080=b,#ff0000=c,#e0e0c0=d"
    assert found(paths, named).names == ("a", "b", "c", "d")
    # The order of colours is nobody's.
    refused(paths, "a,b,c,d", r"--classes '#000000=a,#000080=b,#e0e0c0=c,#ff0000=d'")


@pytest.mark.parametrize(
    ("values", "dtype"), [([0, 1], bool), ([0, 1000], np.uint16), ([[0, 0, 0], [5, 5, 5]], np.uint8)]
)
def test_other_ways_to_save_values(labels, values, dtype):
    paths = labels(values, dtype=dtype)
    classes = found(paths, "off,on")
    assert classes.keys == tuple(np.unique(values)) and not classes.colors
    assert_read_as(classes, paths, [[0, 1, 0]])


def refused(paths, names, message):
    with pytest.raises(InputError, match=message) as caught:
        found(paths, names)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_refused_labels_and_names(labels, tmp_path):
    refused(labels([7], [7]), [], r"labels in masks hold one value only \(7\); a model needs two classes")
    refused(labels([255]), [], "one value only")
    refused(labels(range(100)), [], "hold 100 values; name them with --classes, at most 254, or if masks were resized")
    refused(labels(range(100)), ["a", "b"], r"--classes has 2 names, but .* hold 100 values \(0, 1, .*, 9, \.\.\.\)")
    refused(labels([0, 5]), ["a", "b", "c", "d"], r"--classes has 4 names, but .* hold 2 values \(0, 5\)")
    for names, message in (
        ("a,a", "--classes names 'a' twice"),
        ("a,", "--classes has an empty name"),
        ('a,"b', "--classes cannot be read .*in quotes"),
        ("0=a,b", "--classes gives some names a value"),
        ("0=a,0=b", "--classes has a value twice"),
        ("0=a,1=a", "--classes gives several values the name 'a'"),
    ):
        refused(labels([0, 1]), names, message)
    refused(labels([0, 1]), ["a", "ignore"], "--classes leaves fewer than two classes")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "label.jpg")
    refused([str(tmp_path / "label.jpg")], [], "label.jpg: the label file is a JPEG")
    Image.fromarray(np.full(SIZE, -1, np.int32)).save(tmp_path / "label.tif")
    refused([str(tmp_path / "label.tif")], [], "label.tif: the label image has values from -1 to -1; use 0 to 65535")


def test_names_of_no_class():
    names = (
        "void",
        "void--unlabeled",
        "unlabeledArea",
        "no data",
        "No-Data",
        "noData",
        "NODATA",
        "roof no_data",
        "Ignored",
        "none",
    )
    assert all(map(may_be_none, names))
    assert not any(map(may_be_none, ("avoid", "database", "area", "no parking", "data", "node")))

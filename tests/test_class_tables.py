"""Files that name classes: CVAT's, Roboflow's, tables of colours, lists of names."""

import numpy as np
import pytest
from annotation_files import write_cvat
from data_files import write_label
from PIL import Image

from rc2l_d2.data.labels.class_tables import read_class_table
from rc2l_d2.data.labels.tabled_labels import find_table, read_tabled
from rc2l_d2.errors import InputError

LINES = ["background:0,0,0::", "sports: car:10,200,7::", "road:255,0,0:left,right:run", "ignored:224,224,192::"]
COLORS = [[0, 0, 0], [10, 200, 7], [255, 0, 0], [224, 224, 192]]
LABEL = np.repeat(np.uint8([[0, 1, 2, 3]]), 5, axis=0)


def test_tables_are_read_by_their_own_order(tmp_path):
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n\n" + "\n".join(LINES))
    assert list(read_class_table(tmp_path / "labelmap.txt").items()) == [
        ("#000000", "background"), ("#0ac807", "sports: car"), ("#ff0000", "road"), ("#e0e0c0", "ignore"),
    ]  # fmt: skip
    (tmp_path / "_classes.csv").write_bytes(
        b'\xef\xbb\xbfPixel Value, Class\r\n2, "road, main"\r\n0, background\r\n\r\n'
    )
    assert list(read_class_table(tmp_path / "_classes.csv").items()) == [(2, "road, main"), (0, "background")]


def test_colours_of_csv_files_and_lists_of_names(tmp_path):
    expected = {"#804080": "road, main", "#00008e": "ignore"}
    for name, text in {
        "class_dict.csv": 'name,r,g,b\r\n"road, main",128,64,128\r\nignored,0,0,142\r\n',
        "b.csv": 'B, G, R, Class\n128, 64, 128, "road, main"\n142, 0, 0, ignored\n',
        "mapping.CSV": 'class_name,class_color\n"road, main",128 64 128\nignored,"0,0,142"\n',
    }.items():
        (tmp_path / name).write_text(text)
        assert read_class_table(tmp_path / name) == expected, name
    for delimiter, encoding in ((";", "utf-8-sig"), ("\t", "utf-16")):  # of Excel
        text = "name,r,g,b\nsky,128,64,128\nignored,0,0,142\n".replace(",", delimiter)
        (tmp_path / "excel.csv").write_text(text, encoding=encoding)
        assert read_class_table(tmp_path / "excel.csv") == {**expected, "#804080": "sky"}
    (tmp_path / "classes.txt").write_text("# names\n sea\nroad: wide\n")
    assert read_class_table(tmp_path / "classes.txt") == {0: "sea", 1: "road: wide"}
    for text in (
        "0: unlabeled\n2: traffic light\n",
        "0 unlabeled\n\n2,traffic light\n",
        "0\tunlabeled\n2 = traffic light",
    ):
        (tmp_path / "labels.txt").write_text(text)
        assert read_class_table(tmp_path / "labels.txt") == {0: "unlabeled", 2: "traffic light"}
    for text in ("10 speed bike\n3 wheeler\n", "3 wheeler\n10 speed bike\n"):
        (tmp_path / "labels.txt").write_text(text)
        assert read_class_table(tmp_path / "labels.txt") == dict(enumerate(text.splitlines()))
    (tmp_path / "labels.txt").write_text("10: car\n3\tsky\n")
    assert read_class_table(tmp_path / "labels.txt") == {10: "car", 3: "sky"}
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncar\n")
    assert read_class_table(tmp_path / "labels.txt") == {0: "_background_", 1: "car"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("class_dict.csv", "name,r,g,b\nroad,1,2", "the row 'road, 1, 2' is not a name and a colour from 0 to 255"),
        ("class_dict.csv", "name,r,g,b\nroad,1,2,256", "the row 'road, 1, 2, 256' is not a name and"),
        ("class_dict.csv", 'name,r,g,b\n"road,1,2,3', "the class table is no CSV file"),
        ("classes.txt", "\n", "the class table is empty"),
        ("labelmap.txt", "road:1,2::", "the line 'road:1,2::' is not name:red,green,blue:parts:actions"),
        ("labelmap.txt", "road:1,2,256::", "the line 'road:1,2,256::' is not"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::", "a value, a colour or a name twice in 'b:1,2,3::'"),
        ("_classes.csv", "0,a\n1,b,c", "the row '1, b, c' is not a value and a name"),
        ("_classes.csv", "0,a\n1,a", "a value, a colour or a name twice in '1, a'"),
        ("_classes.csv", "Pixel Value,Class\n", "the class table is empty"),
    ],
)
def test_refused_tables(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_table(tmp_path / name)


def test_cvats_masks_are_named_by_colour_or_by_line(tmp_path):
    write_cvat(tmp_path / "colours", {"a": LABEL}, LINES, COLORS)
    for folder in ("colours", "colours/SegmentationClass"):
        tabled = find_table(str(tmp_path / folder))
        assert tabled.folder.endswith("SegmentationClass")
        classes = read_tabled([f"{tabled.folder}/a.png"], tabled)
        assert classes.names == ("background", "sports: car", "road") and classes.pixels.tolist() == [[5, 5, 5]]
        assert classes.palette == tuple(map(tuple, COLORS[:3])) and classes.ignored == (0xE0E0C0,)
    write_cvat(tmp_path / "grey", {"a": LABEL}, LINES, COLORS)
    write_label(tmp_path / "grey/SegmentationClass/a.png", LABEL)
    tabled = find_table(str(tmp_path / "grey"))
    classes = read_tabled([f"{tabled.folder}/a.png"], tabled)
    assert classes.names == ("background", "sports: car", "road") and classes.keys == (0, 1, 2) and not classes.colors
    palette = Image.fromarray(LABEL[:, ::-1])
    palette.putpalette(sum(reversed(COLORS), []))
    palette.save(tmp_path / "grey/SegmentationClass/a.png")
    assert read_tabled([f"{tabled.folder}/a.png"], tabled).keys == (0x000000, 0x0AC807, 0xFF0000), "colours count"


def test_unknown_colours_and_two_meanings_are_refused(tmp_path):
    write_cvat(tmp_path, {"a": LABEL}, LINES[:3], COLORS)
    tabled = find_table(str(tmp_path))
    with pytest.raises(InputError, match="labelmap.txt has no class for #e0e0c0, which labels in .* hold; correct it"):
        read_tabled([f"{tabled.folder}/a.png"], tabled)
    write_cvat(tmp_path, {"a": LABEL}, ["road:1,1,1::", "car:0,0,0::"], COLORS)
    write_label(tmp_path / "SegmentationClass/a.png", LABEL % 2)
    tabled = find_table(str(tmp_path))
    with pytest.raises(InputError, match="grey masks in .* can be read by the colours .* or by its lines, with other"):
        read_tabled([f"{tabled.folder}/a.png"], tabled)


def test_roboflows_tables_must_agree(tmp_path):
    for split, table in (("train", "0,background\n1,car"), ("valid", "0,background\n1,car")):
        write_label(tmp_path / f"{split}/a_mask.png", LABEL % 2)
        (tmp_path / f"{split}/_classes.csv").write_text(table)
    tabled = find_table(str(tmp_path))
    assert tabled.suffix == "_mask.png"
    assert read_tabled([str(tmp_path / "train/a_mask.png")], tabled).names == ("background", "car")
    with pytest.raises(InputError, match="has no class for 2, which"):
        write_label(tmp_path / "train/b_mask.png", LABEL % 3)
        read_tabled([str(tmp_path / "train/b_mask.png")], tabled)
    (tmp_path / "valid/_classes.csv").write_text("0,car\n1,background")
    with pytest.raises(InputError, match="train/_classes.csv and .*valid/_classes.csv name different classes"):
        find_table(str(tmp_path))
    assert find_table(str(tmp_path / "none")) is None

"""Labels drawn from labelme's files: masks drawn one by one, as labelme's export does, are the reference."""

import base64
import io
import math

import numpy as np
import pytest
from annotation_files import SIZE, labelme_content, write_images, write_json
from PIL import Image, ImageDraw

from rc2l_d2.data import read_label
from rc2l_d2.data.labels.drawn import NamedClasses
from rc2l_d2.data.labels.labelme import LabelmeLabels
from rc2l_d2.errors import InputError

CLASSES = ("background", "cat", "dog", "ball")
KINDS = {"polygon": 5, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "line": 2, "linestrip": 4, "point": 1}


def drawn(file, image="/images/a.jpg"):
    names = NamedClasses.from_yaml("background", {"van": "ball"}, CLASSES, 255)
    return read_label(file, LabelmeLabels(names).of(str(file), image, "a.jpg", "a"))


def reference_mask(kind, points):
    """A mask of the shape, after labelme's ``shape_to_mask`` with its default line width 10 and point size 5."""
    image = Image.new("1", SIZE[::-1])
    draw, xy = ImageDraw.Draw(image), [tuple(point) for point in points]
    if kind in ("circle", "point"):
        radius = 5 if kind == "point" else math.sqrt(sum((a - b) ** 2 for a, b in zip(*xy, strict=True)))
        (x, y) = xy[0]
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = xy
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(xy=xy, fill=1, width=10)
    else:
        draw.polygon(xy=xy, outline=1, fill=1)
    return np.array(image)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_drawn_as_labelme_exports_them(tmp_path, kind):
    rng = np.random.default_rng(0)
    for whole in (True, False):
        shapes, expected = [], np.zeros(SIZE, np.uint8)
        for _ in range(6):
            points = rng.uniform(-6, 66, (KINDS[kind], 2))
            points[0] %= SIZE[::-1]  # A shape outside of the image is refused.
            points = (points.round() if whole else points).tolist()
            name = CLASSES[rng.integers(1, 4)]
            shapes.append((name, kind, points))
            expected[reference_mask(kind, points)] = CLASSES.index(name)
        assert (drawn(write_json(tmp_path / "a.json", labelme_content("a.jpg", shapes))) == expected).all()


def test_hand_drawn_values_and_their_order(tmp_path):
    shapes = [
        ("dog", "rectangle", [[10, 8], [4, 2]]), ("cat", "polygon", [[8, 5], [12, 5], [12, 9], [8, 9]]),
        ("__ignore__", "rectangle", [[0, 0], [1, 1]]), ("van", "rectangle", [[30, 30], [30, 31]]),
    ]  # fmt: skip
    content = labelme_content("a.jpg", shapes)
    mask = np.array([[True, False], [True, True]])
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    content["shapes"].append({"label": "ball", "shape_type": "mask", "points": [[40, 20], [41, 21]]})
    content["shapes"][-1]["mask"] = base64.b64encode(buffer.getvalue()).decode()
    label, expected = drawn(write_json(tmp_path / "a.json", content)), np.zeros(SIZE, np.uint8)
    expected[2:9, 4:11], expected[5:10, 8:13], expected[:2, :2], expected[30:32, 30] = 2, 1, 255, 3
    expected[20:22, 40:42][mask] = 3
    assert (label == expected).all()


def test_without_a_size_the_images_counts(tmp_path):
    content = labelme_content("a.jpg", [("cat", "rectangle", [[0, 0], [5, 5]])])
    content |= {"imageHeight": None, "imageWidth": None}
    write_images(tmp_path, ["a.jpg"])
    turned = Image.open(tmp_path / "a.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    assert drawn(write_json(tmp_path / "a.json", content), str(tmp_path / "a.jpg")).shape == SIZE[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(imagePath="..\\img\\b.jpg"), r"its imagePath is '..\\img\\b.jpg', but its name is that of"),
        (lambda c: c.pop("shapes"), "this is no file of labelme"),
        (lambda c: c.update(imageHeight=-1), "height -1 and width 64 are no size of an image"),
        (lambda c: c["shapes"][0].update(label=None), "shape 1 has no label"),
        (lambda c: c["shapes"][0].update(label="bus"), "it has the class 'bus', which the data set does not have"),
        (
            lambda c: c["shapes"][0].update(shape_type="points"),
            "shape 1 is of the type 'points', which labelme does not",
        ),
        (lambda c: c["shapes"][0].update(shape_type=[1]), r"shape 1 is of the type \[1\]"),
        (lambda c: c["shapes"][0].update(points=[[1, 1]]), "shape 1 is a rectangle without its points"),
        (lambda c: c["shapes"][0].update(points=[[1, 1], [5, 1e30]]), "shape 1 is a rectangle without its points"),
        (lambda c: c["shapes"][0].update(points="x"), "shape 1 is a rectangle without its points"),
        (lambda c: c["shapes"][0].update(points=[[70, 1], [90, 9]]), "shape 1 is a rectangle outside of its image of"),
        (lambda c: c["shapes"][0].update(shape_type="mask", mask="no"), "shape 1 has a mask that cannot be decoded"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    content = labelme_content("a.jpg", [("cat", "rectangle", [[0, 0], [5, 5]])])
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        drawn(write_json(tmp_path / "a.json", content))
    assert str(caught.value).startswith(str(tmp_path / "a.json")) and str(caught.value).endswith(".")

"""Images made from labelled ones are recognised, and others are not."""

import numpy as np
import pytest
from data_files import write_image

from rc2l_d2.data.labels.derived import companions, derived_images

PHOTO, DRAWING = "photo", "drawing"


def found(folder, sources, images):
    """The names, below ``folder``, of the derived ones of ``images``: name -> content."""
    rng = np.random.default_rng(0)
    for name, content in {**dict.fromkeys(sources, PHOTO), **images}.items():
        pixels = rng.integers(0, 256, (64, 64, 3)) if content == PHOTO else np.full((64, 64, 3), 60)
        write_image(folder / name, pixels.astype(np.uint8))
    paths = [str(folder / name) for name in images]
    start = f"{folder}/"
    derived = derived_images(paths, start, [start + name for name in sources], f"{folder}/photos/")
    return [path.removeprefix(start) for path in derived]


@pytest.mark.parametrize(
    "name",
    [
        "vis/a_1.png", "SegmentationClassVisualization/a_1.jpg", "overlays/x/a_1.png", "photos/a_1_color.png",
        "photos/a_1_gtFine_instanceIds.png", "more/a_1-overlay.jpg", "a_1_1stHO.png", "a_1 copy.jpg",
        "x/a_1_manual1.png",
    ],
)  # fmt: skip
def test_siblings(tmp_path, name):
    assert found(tmp_path, ["photos/a_1.jpg", "photos/b.jpg"], {name: PHOTO}) == [name]


def test_companions_of_most_labelled_images_need_no_word():
    """As ISIC's _superpixels.png; a second photograph of one place is none."""
    labelled = [f"photos/a_{number}.jpg" for number in range(5)]
    made = [f"photos/a_{number}_superpixels.png" for number in range(3)]
    others = ["photos/a_1_night.jpg", "photos/a_2_night.jpg", *(f"photos/a_{number}_2.jpg" for number in range(5))]
    assert companions([*made, *others, *labelled], labelled) == made
    assert companions(made, [*labelled, "photos/b.jpg"]) == [], "half of them"
    assert companions(made[:2], labelled[:2]) == [], "fewer than three"
    assert companions([path.replace("photos", "more") for path in made], labelled) == []


def test_frames_are_no_companions():
    labelled = [f"clip{number}.png" for number in range(4)]
    assert companions([f"clip{number}_f{frame}.png" for number in range(4) for frame in (1, 2)], labelled) == []


@pytest.mark.parametrize("name", ["test/masks/z.png", "test/z_mask.png", "test/labels/z.png", "z_segmentation.png"])
def test_labels_of_other_images_have_a_word_and_few_colours(tmp_path, name):
    assert found(tmp_path, ["photos/a.jpg"], {name: DRAWING}) == [name]
    assert found(tmp_path, ["photos/a.jpg"], {name: PHOTO}) == []
    assert found(tmp_path, ["photos/a.jpg"], {"test/z.png": DRAWING}) == []


def test_a_drawing_needs_no_word(tmp_path):
    assert found(tmp_path, ["photos/a.jpg"], {"x/a.png": DRAWING, "y/a.png": PHOTO}) == ["x/a.png"]


@pytest.mark.parametrize(
    "name", ["video_2/a_1.jpg", "photos/a_10.jpg", "photos/a_1_2.jpg", "a_2.jpg", "a.jpg", "a_1b.jpg", "a_1_night.jpg"]
)
def test_other_images(tmp_path, name):
    assert found(tmp_path, ["photos/a_1.jpg", "photos/b.jpg"], {name: PHOTO}) == []

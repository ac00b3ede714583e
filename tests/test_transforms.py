"""Views of images: sizes, alignment, and the photometric steps against values computed by hand."""

import colorsys
from functools import partial

import numpy as np
import pytest

from rc2l_d2.data.loading.transforms import (
    Geometry,
    GeometrySettings,
    adjust_hsv,
    adjust_linear,
    color_jitter,
    resize_image,
    resize_label,
    sample_geometry,
    sample_short_edge,
    scaled_size,
    ssd_distortion,
    strong_view,
)

JITTER = (0.5, 0.5, 0.5, 0.25)


class Chosen:
    """A generator of chosen numbers: which steps of SSD's distortion are done, each as strongly as possible."""

    def __init__(self, *steps: bool):
        self.steps = steps

    def random(self, number):
        return np.where(self.steps, 0.0, 1.0)

    def uniform(self, low, high):
        return high

    def integers(self, low, high):
        return high - 1


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((100, 200), 50, 1000, (50, 100)),
        ((200, 100), 50, 1000, (100, 50)),
        ((100, 200), 100, 150, (75, 150)),
        ((100, 200), 0, 10, (100, 200)),
        ((3, 1000), 5, 50, (1, 50)),
    ],
)
def test_scaled_size(size, short, long, expected):
    assert scaled_size(size, short, long) == expected


def test_label_resize_takes_pixel_centres():
    label = np.array([[0, 1], [2, 255]], np.uint8)
    assert (resize_label(label, (4, 4)) == label.repeat(2, 0).repeat(2, 1)).all()
    # Of three pixels to one, the middle one.
    assert resize_label(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8), (1, 1)) == 5


def test_image_resize_averages_when_it_shrinks():
    board = (np.indices((8, 8)).sum(0) % 2 * 200).astype(np.uint8)[..., None].repeat(3, 2)
    assert (resize_image(board, (4, 4)) == 100).all()
    board = (np.indices((12, 12)).sum(0) % 2 * 180).astype(np.uint8)[..., None].repeat(3, 2)
    # Five or four of nine are bright; two neighbours alone would give 0 or 180.
    assert set(np.unique(resize_image(board, (4, 4)))) == {80, 100}


def test_geometry_keeps_image_label_and_inside_together():
    # The label has the values of the image, so both must move alike.
    image = (np.indices((40, 60)).sum(0) * 2).astype(np.uint8)[..., None].repeat(3, 2)
    settings = GeometrySettings((40,), "choice", 1000, (30, 50), True)
    seen = set()
    for seed in range(20):
        geometry = sample_geometry(image.shape[:2], 40, settings, np.random.default_rng(seed))
        cut = geometry.cut_image(image)
        assert (cut[..., 0] == geometry.cut_label(image[..., 0].copy())).all()
        assert cut.shape == (30, 50, 3) and geometry.inside().all()
        seen.add((geometry.flip, geometry.top, geometry.left))
    assert {flip for flip, _, _ in seen} == {True, False}
    assert len(seen) > 15


def test_flip_and_crop_by_hand():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    geometry = Geometry(size=(3, 4), flip=True, top=1, left=1, crop=(2, 2))
    assert geometry.cut_label(array).tolist() == [[6, 5], [10, 9]]


def test_range_and_choice_of_sizes():
    def short_edges(sampling):
        settings = GeometrySettings((10, 14), sampling, 1000, (8, 8), False)
        return {sample_short_edge(settings, np.random.default_rng(seed)) for seed in range(100)}

    assert short_edges("choice") == {10, 14}
    assert short_edges("range") == {10, 11, 12, 13, 14}
    settings = GeometrySettings((10,), "choice", 1000, (8, 8), False)
    assert sample_geometry((20, 30), 10, settings, np.random.default_rng(0)).size == (10, 15)


def test_linear_adjustment_rounds_and_clips():
    values = np.array([[[0, 100, 255]]], np.uint8)
    assert adjust_linear(values, 1.5, 0.0).tolist() == [[[0, 150, 255]]]
    assert adjust_linear(values, 0.5, -10.0).tolist() == [[[0, 40, 118]]]


def test_hue_turns_and_saturation_scales():
    blue = np.zeros((1, 1, 3), np.uint8)
    blue[..., 0] = 255
    green = adjust_hsv(blue, 1.0, -1 / 3)
    assert abs(green.astype(int) - [0, 255, 0]).max() <= 6
    assert (adjust_hsv(blue, 0.0, 0.0) == 255).all()


@pytest.mark.parametrize(
    "view",
    [partial(strong_view, jitter=JITTER, grayscale=0.2), partial(color_jitter, strengths=JITTER), ssd_distortion],
)
def test_photometric_views_are_seeded_and_leave_their_input_alone(view, image):
    before = image.copy()
    results = [view(image, rng=np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert (image == before).all()
    assert (results[0] == results[1]).all()
    assert any((results[0] != other).any() for other in results[2:])
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)


def test_strong_view_does_each_thing_as_often_as_it_should():
    image = np.full((8, 8, 3), (40, 90, 160), np.uint8)
    image[:, 4:] = (200, 100, 30)
    views = [strong_view(image, JITTER, 0.2, np.random.default_rng(seed)) for seed in range(600)]
    gray = sum(np.ptp(view, axis=2).max() == 0 for view in views)
    assert 0.14 < gray / 600 < 0.28  # 0.2, and the few whose jitter left no colour
    blurred = sum(bool((view[:, 3] != view[:, 0]).any()) for view in views)
    assert 0.35 < blurred / 600 < 0.52  # 0.5, less the smallest standard deviations


def test_strengths_bound_the_jitter():
    color = np.full((8, 8, 3), (40, 90, 160), np.uint8)
    views = [strong_view(color, (0.0,) * 4, 0.0, np.random.default_rng(seed)) for seed in range(50)]
    # Conversion to hue and back rounds.
    assert max(abs(view.astype(int) - color).max() for view in views) <= 6
    bright = [color_jitter(color, (0.5, 0.0, 0.0, 0.0), np.random.default_rng(seed)) for seed in range(50)]
    ratios = [view[..., 1].mean() / 90 for view in bright]
    assert 0.45 < min(ratios) < 0.6 and 1.4 < max(ratios) < 1.55
    assert np.ptp(strong_view(color, JITTER, 1.0, np.random.default_rng(0)), axis=2).max() == 0


@pytest.mark.parametrize(("steps", "expected"), [
    ((1, 0, 0, 0, 0), lambda x: x + 32.0),
    ((0, 1, 0, 0, 0), lambda x: 1.5 * x),
    ((0, 1, 0, 0, 1), lambda x: 1.5 * x),
    ((0, 0, 1, 0, 0), lambda x: adjust_hsv(x, 1.5, 0.0)),
    ((0, 0, 0, 1, 0), lambda x: adjust_hsv(x, 1.0, 0.1)),
    ((0, 1, 1, 0, 0), lambda x: 1.5 * adjust_hsv(x, 1.5, 0.0)),
    ((0, 1, 1, 0, 1), lambda x: adjust_hsv(np.minimum(1.5 * x, 255).round().astype(np.uint8), 1.5, 0.0)),
    ((0, 0, 0, 0, 0), lambda x: x),
])  # fmt: skip
def test_each_step_of_ssds_distortion(image, steps, expected):
    found = ssd_distortion(image, Chosen(*steps)).astype(float)
    assert np.abs(found - np.clip(expected(image), 0, 255)).max() <= 1


def test_contrast_is_scaled_around_the_mean_grey(image):
    grey = (image @ np.array([0.114, 0.587, 0.299])).mean()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        factor = [rng.uniform(1 - strength, 1 + strength) for strength in (0, 0.5, 0)][1]
        expected = np.clip(grey + factor * (image - grey), 0, 255)
        # A hue that is not turned goes through HSV and back, which rounds.
        error = np.abs(color_jitter(image, (0, 0.5, 0, 0), np.random.default_rng(seed)) - expected)
        assert error.mean() < 1.5


def test_hue_is_turned_by_the_sampled_part_of_a_circle():
    blue = np.full((2, 2, 3), (255, 0, 0), np.uint8)  # BGR
    for seed in range(5):
        rng = np.random.default_rng(seed)
        turn = [rng.uniform(-end, end) for end in (0, 0, 0, 0.25)][3]
        expected = 255 * np.array(colorsys.hsv_to_rgb((2 / 3 + turn) % 1, 1, 1))[::-1]
        assert np.abs(color_jitter(blue, (0, 0, 0, 0.25), np.random.default_rng(seed))[0, 0] - expected).max() < 12


def test_blur_reaches_at_most_three_deviations():
    edge = np.repeat(np.where(np.arange(60) < 30, 0, 200).astype(np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    views = [strong_view(edge, (0, 0, 0, 0), 0.0, np.random.default_rng(seed)) for seed in range(20)]
    changed = [(view != edge)[..., 0] for view in views]
    columns = np.flatnonzero(np.any(changed, axis=(0, 1)))
    assert 24 <= columns.min() < 28 and 32 <= columns.max() < 36
    assert 3 < sum(map(np.any, changed)) < 17


def test_every_position_of_a_crop_occurs():
    settings = GeometrySettings((0,), "choice", 1000, (64, 64), False)
    found = [sample_geometry((65, 66), 0, settings, np.random.default_rng(seed)) for seed in range(60)]
    assert {(one.top, one.left) for one in found} == {(top, left) for top in range(2) for left in range(3)}

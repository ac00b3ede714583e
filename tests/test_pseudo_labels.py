from __future__ import annotations

from dataclasses import fields, replace

import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import SIZES, arrays, precision, random_view
from numpy.testing import assert_allclose, assert_array_equal

from rc2l_d2.regions.pseudo_labels import (
    class_confidence_sums,
    class_thresholds,
    masked_average_pool,
    pseudo_regions,
    select,
    update_class_confidence,
)
from rc2l_d2.regions.types import Selection, TeacherView


def hand_view() -> TeacherView:
    """One row of five positions and two classes; the last position is padding."""
    first = torch.tensor([0.9, 0.6, 0.2, 0.7, 0.99], dtype=torch.float64)
    probabilities = torch.stack([first, 1 - first]).reshape(1, 2, 1, 5)
    features = torch.tensor([1.0, 2, 3, 5, 100], dtype=torch.float64).reshape(1, 1, 1, 5)
    return TeacherView(probabilities, features, torch.tensor([[[True, True, True, True, False]]]))


def test_an_image_without_numbers_leaves_the_confidence_as_the_others_have_it():
    view = hand_view()
    expected = class_confidence_sums(view)
    broken = torch.cat([view.probabilities, torch.full_like(view.probabilities, float("nan"))])
    twice = {name: torch.cat([value, value]) for name, value in (("features", view.features), ("inside", view.inside))}
    found = class_confidence_sums(replace(view, probabilities=broken, **twice))
    for mine, theirs in zip(found, expected, strict=True):
        assert_allclose(mine, theirs)


def test_confidence_by_hand():
    sums, counts = class_confidence_sums(hand_view())
    assert_allclose(sums, [2.2, 0.8], rtol=1e-12)
    assert_allclose(counts, [3, 1])
    old = torch.tensor([0.7, 0.7, 0.6], dtype=torch.float64)
    sums, counts = torch.tensor([9.0, 1.0, 0.0]).double(), torch.tensor([10.0, 2.0, 0.0]).double()
    assert_allclose(update_class_confidence(old, sums, counts), [0.704, 0.696, 0.6], rtol=1e-12)
    assert_allclose(update_class_confidence(old, sums, counts, momentum=0.5), [0.8, 0.6, 0.6], rtol=1e-12)
    kappa = torch.tensor([0.7, 0.4, 1.0], dtype=torch.float64)
    assert_allclose(class_thresholds(kappa, Selection("pixel", 0.5, 0.95)), [0.665, 0.5, 0.95])


def test_pseudo_regions_by_hand():
    thresholds = torch.tensor([0.65, 0.5], dtype=torch.float64)
    pseudo = pseudo_regions(select(hand_view(), thresholds, "pixel"), 1)
    assert_array_equal(pseudo.masks.reshape(2, 5), [[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]])
    assert_array_equal(pseudo.present, [[True, True]])
    assert_array_equal(pseudo.valid.flatten(), [True, False, True, True, False])
    assert_allclose(pseudo.weights, [[2.2 / 3, 0.8]])  # unconfident positions count, padding does not
    assert_allclose(pseudo.features, [[[3.0], [3.0]]])

    pseudo = pseudo_regions(select(hand_view(), thresholds, "pixel"), 2)
    assert_array_equal(pseudo.masks.reshape(2, 5), [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    assert_array_equal(pseudo.present, [[True, False]])
    assert_array_equal(pseudo.valid.flatten(), [True, False, False, True, False])
    assert_allclose(pseudo.weights, [[2.2 / 3, 0]])
    assert_allclose(pseudo.features, [[[3.0], [0.0]]])


def test_whole_regions_by_hand():
    # The first class covers 0.9, 0.6 and 0.7, mean 0.7333; the second one 0.8.
    for first, second in ((True, True), (True, False), (False, True), (False, False)):
        thresholds = torch.tensor([0.73 if first else 0.74, 0.79 if second else 0.8], dtype=torch.float64)
        pseudo = pseudo_regions(select(hand_view(), thresholds, "region"), 1)
        assert_array_equal(pseudo.present, [[first, second]])
        expected = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]]) * np.array([[first], [second]])
        assert_array_equal(pseudo.masks.reshape(2, 5), expected)
        assert_array_equal(pseudo.valid.flatten(), expected.any(axis=0))
        assert_allclose(pseudo.weights, [[2.2 / 3 * first, 0.8 * second]])
        assert_allclose(pseudo.features, [[[8 / 3 * first], [3.0 * second]]])
    # Without any position of a class its mean is 0: above no threshold, also not above 0.
    nothing = replace(hand_view(), inside=torch.zeros(1, 1, 5, dtype=torch.bool))
    assert not pseudo_regions(select(nothing, torch.zeros(2, dtype=torch.float64), "region"), 1).valid.any()


def test_confident_means_above_the_threshold():
    view = hand_view()
    threshold = view.probabilities[0, 0, 0, 3]
    pseudo = pseudo_regions(select(view, torch.stack([threshold, threshold]), "pixel"), 1)
    assert_array_equal(pseudo.masks[0, 0, 0], [1, 0, 0, 0, 0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("min_area", [1, 3])
@pytest.mark.parametrize("selection", ["region", "pixel"])
def test_values_against_loops(size, min_area, selection):
    for seed in range(3):
        view = random_view(size, seed, sharpness=2.0)
        values = arrays(view)
        generator = torch.Generator().manual_seed(seed)
        confidence = 0.5 + 0.5 * torch.rand(size[2], generator=generator, dtype=torch.float64)

        sums, counts = class_confidence_sums(view)
        expected_sums, expected_counts = reference.class_confidence_sums(values["probabilities"], values["inside"])
        assert_allclose(sums, expected_sums, rtol=1e-10)
        assert_allclose(counts, expected_counts)
        updated = update_class_confidence(confidence, sums, counts)
        expected = reference.update_class_confidence(confidence.numpy(), expected_sums, expected_counts, 0.98)
        assert_allclose(updated, expected, rtol=1e-10)
        thresholds = class_thresholds(updated, Selection("pixel", 0.5, 0.8))
        assert_allclose(thresholds, reference.class_thresholds(expected, 0.5, 0.8), rtol=1e-10)

        pseudo = arrays(pseudo_regions(select(view, thresholds, selection), min_area))
        expected = reference.pseudo_regions(**values, thresholds=thresholds.numpy(), min_area=min_area,
                                            selection=selection)  # fmt: skip
        for name, value in expected.items():
            assert_allclose(pseudo[name], value, rtol=1e-10, err_msg=name)


def test_pool_soft_and_empty_masks():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, 4, 4, 5, generator=generator, dtype=torch.float64)
    masks[0, 1] = 0
    pooled = masked_average_pool(features, masks)
    assert_allclose(pooled, reference.masked_average_pool(features.numpy(), masks.numpy()), rtol=1e-10)
    assert_array_equal(pooled[0, 1], np.zeros(3))
    tiny = masked_average_pool(features, masks * 1e-3)  # a mean does not depend on the masks' scale
    assert_allclose(tiny, pooled, rtol=1e-4)


def test_types_shapes_and_no_gradient():
    view = random_view(SIZES[0], 0)
    view = replace(view, probabilities=view.probabilities.requires_grad_(), features=view.features.requires_grad_())
    images, _, classes, channels, height, width = SIZES[0]
    pseudo = pseudo_regions(select(view, torch.full((classes,), 0.5, dtype=torch.float64), "pixel"), 1)
    assert pseudo.masks.shape == (images, classes, height, width)
    assert pseudo.masks.dtype == view.probabilities.dtype
    assert pseudo.present.shape == (images, classes) and pseudo.present.dtype == torch.bool
    assert pseudo.valid.shape == (images, height, width) and pseudo.valid.dtype == torch.bool
    assert pseudo.features.shape == (images, classes, channels)
    assert pseudo.weights.shape == (images, classes)
    for field in fields(pseudo):
        assert not getattr(pseudo, field.name).requires_grad, field.name
    for statistics in class_confidence_sums(view):
        assert not statistics.requires_grad


@pytest.mark.parametrize("name", ["float32", "bfloat16", "autocast bfloat16", "autocast float16"])
def test_large_areas_are_counted_exactly(name):
    """bfloat16 counts to 256 and float16 to 65,504; an area must be compared with ``min_area`` exactly."""
    dtype, context = precision(name)
    probabilities = torch.zeros(1, 2, 300, 300, dtype=dtype)
    probabilities[:, 0] = 1
    probabilities[:, 0, 0, :257], probabilities[:, 1, 0, :257] = 0, 1
    view = TeacherView(probabilities, torch.ones(1, 2, 300, 300, dtype=dtype), torch.ones(1, 300, 300) > 0)
    thresholds = torch.full((2,), 0.5, dtype=dtype)
    with context:
        sums, counts = class_confidence_sums(view)
        exact = pseudo_regions(select(view, thresholds, "pixel"), 257)
        above = pseudo_regions(select(view, thresholds, "pixel"), 258)
    assert_allclose(counts.double(), [300 * 300 - 257, 257])
    assert_allclose(sums.double(), [300 * 300 - 257, 257], rtol=1e-6)
    assert_array_equal(exact.present, [[True, True]])
    assert_array_equal(above.present, [[True, False]])
    assert_allclose(exact.features.float(), np.ones((1, 2, 2)), rtol=1e-2)
    assert_allclose(exact.weights.float(), np.ones((1, 2)), rtol=1e-2)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "autocast bfloat16"])
def test_nothing_inside(name):
    dtype, context = precision(name)
    view = random_view(SIZES[0], 0, dtype=dtype)
    view = replace(view, inside=torch.zeros_like(view.inside))
    with context:
        sums, counts = class_confidence_sums(view)
        pseudo = pseudo_regions(select(view, torch.full((SIZES[0][2],), 0.5, dtype=dtype), "pixel"), 1)
    assert sums.eq(0).all() and counts.eq(0).all()
    for field in fields(pseudo):
        assert getattr(pseudo, field.name).eq(0).all(), field.name
    confidence = torch.tensor([0.7, 0.8, 0.9])
    assert_allclose(update_class_confidence(confidence, sums, counts), [0.7, 0.8, 0.9], rtol=1e-6)


def test_padding_has_no_influence():
    view = random_view(SIZES[0], 1)
    thresholds = torch.full((SIZES[0][2],), 0.5, dtype=torch.float64)
    probabilities, features = view.probabilities.clone(), view.features.clone()
    padding = ~view.inside[:, None]
    probabilities = torch.where(padding, torch.tensor([0.98, 0.01, 0.01]).double()[:, None, None], probabilities)
    features = torch.where(padding, 1e6, features)
    other = pseudo_regions(select(TeacherView(probabilities, features, view.inside), thresholds, "pixel"), 1)
    expected = pseudo_regions(select(view, thresholds, "pixel"), 1)
    for field in fields(other):
        assert_allclose(getattr(other, field.name), getattr(expected, field.name), err_msg=field.name)

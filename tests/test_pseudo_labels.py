"""Pseudo labels, class thresholds, selection and pseudo regions."""

from dataclasses import replace

import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import PRECISIONS, SIZES, arrays, cut, precision, random_prediction
from numpy.testing import assert_allclose, assert_array_equal

from rc2l_d2.regions import (
    PseudoLabeler,
    Selection,
    TeacherPrediction,
    class_confidence_sums,
    class_thresholds,
    masked_average_pool,
    pseudo_regions,
    select,
    teacher_prediction,
    update_class_confidence,
)


def by_hand() -> TeacherPrediction:
    """One row of five pixels and two classes; the last pixel is padding."""
    first = torch.tensor([0.9, 0.6, 0.2, 0.7, 0.99], dtype=torch.float64)
    features = torch.tensor([1.0, 2, 3, 5, 100], dtype=torch.float64).reshape(1, 1, 1, 5)
    inside = torch.tensor([[[True, True, True, True, False]]])
    return teacher_prediction(torch.stack([first, 1 - first]).reshape(1, 2, 1, 5), features, inside)


def test_labels_and_confidence_by_hand():
    teacher = by_hand()
    assert_array_equal(teacher.label.flatten(), [0, 0, 1, 0, 0])
    assert_allclose(teacher.confidence.flatten(), [0.9, 0.6, 0.8, 0.7, 0.99])
    assert torch.equal(teacher.valid, teacher.inside)
    sums, counts = class_confidence_sums(teacher)
    assert_allclose(sums, [2.2, 0.8], rtol=1e-12)
    assert_allclose(counts, [3, 1])


def test_thresholds_by_hand():
    old = torch.tensor([0.7, 0.7, 0.6], dtype=torch.float64)
    sums, counts = torch.tensor([9.0, 1.0, 0.0]).double(), torch.tensor([10.0, 2.0, 0.0]).double()
    assert_allclose(update_class_confidence(old, sums, counts), [0.704, 0.696, 0.6], rtol=1e-12)
    kappa = torch.tensor([0.7, 0.4, 1.0], dtype=torch.float64)
    assert_allclose(class_thresholds(kappa, Selection("pixel", 0.5, 0.95)), [0.665, 0.5, 0.95])


def test_an_image_of_nan_leaves_the_class_confidence_as_it_is():
    teacher = by_hand()
    broken = torch.cat([teacher.semantic_map, torch.full_like(teacher.semantic_map, float("nan"))])
    both = teacher_prediction(broken, teacher.features.repeat(2, 1, 1, 1), teacher.inside.repeat(2, 1, 1))
    for found, expected in zip(class_confidence_sums(both), class_confidence_sums(teacher), strict=True):
        assert_allclose(found, expected)


def test_selected_pixels_by_hand():
    thresholds = torch.tensor([0.65, 0.5], dtype=torch.float64)
    selected = select(by_hand(), thresholds, "pixel")
    for min_area, second in ((1, 1), (2, 0)):  # The second class has one confident pixel.
        pseudo = pseudo_regions(selected, min_area)
        assert_array_equal(pseudo.masks.reshape(2, 5), [[1, 0, 0, 1, 0], [0, 0, second, 0, 0]])
        assert_array_equal(pseudo.present, [[True, second]])
        assert_array_equal(pseudo.valid.flatten(), [True, False, second, True, False])
        assert_allclose(pseudo.weights, [[2.2 / 3, 0.8 * second]])  # unconfident pixels count, padding does not
        assert_allclose(pseudo.features, [[[3.0], [3.0 * second]]])
        assert pseudo.teacher is selected
    # A confidence equal to the threshold is not confident.
    equal = by_hand().confidence[0, 0, 3].expand(2)
    assert_array_equal(select(by_hand(), equal, "pixel").valid.flatten(), [True, False, True, False, False])


def test_selected_regions_by_hand():
    # The first class covers 0.9, 0.6 and 0.7, mean 0.7333; the second one 0.8.
    for first, second in ((True, True), (True, False), (False, True), (False, False)):
        thresholds = torch.tensor([0.73 if first else 0.74, 0.79 if second else 0.8], dtype=torch.float64)
        pseudo = pseudo_regions(select(by_hand(), thresholds, "region"), 1)
        assert_array_equal(pseudo.present, [[first, second]])
        expected = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]]) * np.array([[first], [second]])
        assert_array_equal(pseudo.masks.reshape(2, 5), expected)
        assert_array_equal(pseudo.valid.flatten(), expected.any(axis=0))
        assert_allclose(pseudo.weights, [[2.2 / 3 * first, 0.8 * second]])
        assert_allclose(pseudo.features, [[[8 / 3 * first], [3.0 * second]]])
    # Without any pixel of a class its mean is 0: above no threshold, also not above 0.
    nothing = replace(by_hand(), inside=torch.zeros(1, 1, 5, dtype=torch.bool))
    assert not cut(nothing, 0.0, unit="region").valid.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("unit", ["region", "pixel"])
def test_values_against_loops(size, unit):
    """The labeler's step: observe a prediction, then select and cut at the new thresholds."""
    for seed, min_area in ((0, 1), (1, 3), (2, 1)):
        teacher = random_prediction(size, seed, sharpness=2.0)
        values = arrays(teacher)
        generator = torch.Generator().manual_seed(seed)
        labeler = PseudoLabeler(size[2], Selection(unit, 0.5, 0.8, min_area))
        assert_allclose(labeler.kappa, [0.7] * size[2], rtol=1e-6)
        labeler.kappa = 0.5 + 0.5 * torch.rand(size[2], generator=generator, dtype=torch.float64)
        before = labeler.kappa.numpy()

        sums, counts = reference.class_confidence_sums(values)
        for found, expected in zip(class_confidence_sums(teacher), (sums, counts), strict=True):
            assert_allclose(found, expected, rtol=1e-10)
        labeler.observe(teacher)
        kappa = np.where(counts > 0, 0.98 * before + 0.02 * sums / np.maximum(counts, 1), before)
        assert_allclose(labeler.kappa, kappa, rtol=1e-10)

        pseudo = arrays(labeler.regions(labeler.select(teacher)))
        expected = reference.pseudo_regions(values, np.maximum(0.5, 0.8 * kappa), min_area, unit)
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


def test_types_and_no_gradient():
    prediction = random_prediction(SIZES[0], 0)
    teacher = teacher_prediction(
        prediction.semantic_map.requires_grad_(), prediction.features.requires_grad_(), prediction.inside
    )
    pseudo = cut(teacher, 0.5)
    assert pseudo.masks.dtype == teacher.semantic_map.dtype
    assert pseudo.present.dtype == pseudo.valid.dtype == torch.bool
    tensors = [value for name, value in vars(pseudo).items() if name != "teacher"]
    assert not any(x.requires_grad for x in (*tensors, teacher.confidence, *class_confidence_sums(teacher)))


@pytest.mark.parametrize("name", PRECISIONS)
def test_large_areas_are_counted_exactly(name):
    """bfloat16 counts to 256 and float16 to 65,504; an area must be compared with ``min_area`` exactly."""
    dtype, context = precision(name)
    semantic_map = torch.zeros(1, 2, 300, 300, dtype=dtype)
    semantic_map[:, 0] = 1
    semantic_map[:, 0, 0, :257], semantic_map[:, 1, 0, :257] = 0, 1
    with context:
        teacher = teacher_prediction(semantic_map, torch.ones_like(semantic_map), torch.ones(1, 300, 300) > 0)
        sums, counts = class_confidence_sums(teacher)
        exact, above = cut(teacher, 0.5, 257), cut(teacher, 0.5, 258)
    assert_allclose(counts.double(), [300 * 300 - 257, 257])
    assert_allclose(sums.double(), [300 * 300 - 257, 257], rtol=1e-6)
    assert_array_equal(exact.present, [[True, True]])
    assert_array_equal(above.present, [[True, False]])
    assert_allclose(exact.features.float(), np.ones((1, 2, 2)), rtol=1e-2)
    assert_allclose(exact.weights.float(), np.ones((1, 2)), rtol=1e-2)

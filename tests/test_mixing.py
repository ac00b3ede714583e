"""CutMix and ClassMix: boxes and classes that are pasted, images and teacher's prediction alike."""

from __future__ import annotations

from dataclasses import replace

import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import SIZES, arrays, random_prediction
from numpy.testing import assert_allclose, assert_array_equal

from rc2l_d2.regions import classmix_mask, cutmix_mask, mix, pseudo_regions, select, teacher_prediction

ALMOST_ONE = 1 - 2**-24  # the largest float32 that torch.rand returns


def boxes(mask: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of every image's box; fails unless each mask is exactly one filled box."""
    found = []
    for image in mask.numpy():
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert rows.size and columns.size, "an empty box"
        box = (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        assert image.sum() == box[2] * box[3], "not one filled box"
        found.append(tuple(int(value) for value in box))
    return found


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (32, 24), (128, 128)])
def test_cutmix_is_one_box_inside_the_grid(size):
    corners = torch.cartesian_prod(*[torch.tensor([0.0, ALMOST_ONE])] * 4)
    uniform = torch.cat([torch.rand(200, 4, generator=torch.Generator().manual_seed(0)), corners])
    mask = cutmix_mask(uniform, size)
    assert mask.shape == (216, *size) and mask.dtype == torch.bool
    assert len(boxes(mask)) == 216


def test_cutmix_aspect_ratio_is_log_uniform():
    """Area 0.1 of 1000 x 1000: sides sqrt(0.1 a), sqrt(0.1 / a) thousand for aspect a = 0.3 ** (1 - 2 u)."""
    fraction = (0.1 - 0.02) / 0.38
    for u in (0.0, 0.25, 0.5, 0.75, ALMOST_ONE):
        ((_, _, height, width),) = boxes(cutmix_mask(torch.tensor([[fraction, u, 0.3, 0.6]]), (1000, 1000)))
        ratio = 0.3 ** (1 - 2 * u)
        expected = sorted([1000 * (0.1 * ratio) ** 0.5, 1000 * (0.1 / ratio) ** 0.5])
        assert_allclose(sorted([height, width]), expected, atol=1.01)
    shapes = boxes(cutmix_mask(torch.tensor([[fraction, 0.0, 0, 0], [fraction, ALMOST_ONE, 0, 0]]), (1000, 1000)))
    assert (shapes[0][2] > shapes[0][3]) != (shapes[1][2] > shapes[1][3])


def test_cutmix_areas_follow_the_first_number():
    uniform = torch.rand(300, 4, generator=torch.Generator().manual_seed(1))
    areas = np.array([height * width / 128**2 for _, _, height, width in boxes(cutmix_mask(uniform, (128, 128)))])
    expected = 0.02 + 0.38 * uniform[:, 0].numpy()
    assert (areas <= expected + 0.02).all()
    unclipped = expected < 0.29  # below 0.3 no aspect ratio makes the box longer than the grid
    assert_allclose(areas[unclipped], expected[unclipped], atol=0.02)


def test_cutmix_reaches_every_border():
    uniform = torch.tensor([[0.3, 0.4, 0.0, 0.0], [0.3, 0.4, ALMOST_ONE, ALMOST_ONE]])
    (top, left, _, _), (low, right, height, width) = boxes(cutmix_mask(uniform, (40, 60)))
    assert (top, left) == (0, 0)
    assert (low + height, right + width) == (40, 60)


def test_classmix_by_hand():
    """Labels (0 0 1 2) and (2 2 2 2): two of three classes, and the one class, of the partner are pasted."""
    labels = torch.tensor([[[0, 0, 1, 2]], [[2, 2, 2, 2]]])
    semantic_map = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    teacher = teacher_prediction(semantic_map, torch.zeros(2, 1, 1, 4), torch.ones(2, 1, 4, dtype=torch.bool))
    uniform = torch.tensor([[0.9, 0.9, 0.9, 0.1], [0.3, 0.9, 0.2, 0.1]])  # class 3 is the smallest but does not occur
    mask = classmix_mask(teacher, uniform)
    assert_array_equal(mask[:, 0], [[True, True, True, True], [True, True, False, True]])


@pytest.mark.parametrize("size", SIZES)
def test_classmix_against_loops(size):
    for seed in range(4):
        teacher = random_prediction(size, seed)
        uniform = torch.rand(size[0], size[2], generator=torch.Generator().manual_seed(seed))
        mask = classmix_mask(teacher, uniform)
        assert mask.dtype == torch.bool
        assert_array_equal(mask, reference.classmix_mask(arrays(teacher), uniform.numpy()))
    nothing = replace(teacher, inside=torch.zeros_like(teacher.inside))
    assert not classmix_mask(nothing, uniform).any()


@pytest.mark.parametrize("stride, dtype", [(1, torch.uint8), (4, torch.float32)])
def test_mix_against_loops(stride, dtype):
    size = SIZES[2]
    teacher = random_prediction(size, 0)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(size[0], 3, size[4] * stride, size[5] * stride, generator=generator).mul(255).to(dtype)
    mask = torch.rand(size[0], size[4], size[5], generator=generator) > 0.5
    before = arrays(teacher), images.clone()
    mixed_images, mixed = mix(images, teacher, mask)
    assert mixed_images.dtype == dtype and mixed.inside.dtype == torch.bool
    assert_array_equal(mixed_images, reference.mix(before[1].numpy(), mask.numpy()))
    for name, value in before[0].items():
        assert_array_equal(getattr(mixed, name), reference.mix(value, mask.numpy()), err_msg=name)
        assert_array_equal(getattr(teacher, name), value, err_msg="mix changed its input")
    assert_array_equal(images, before[1])


@pytest.mark.parametrize("unit", ["region", "pixel"])
def test_regions_of_a_mixed_image_are_exact(unit):
    """A pixel of the mixed image has the label that it had where it came from, and is valid if it was there."""
    images, _, classes, _, height, width = SIZES[0]
    teacher = random_prediction(SIZES[0], 5)
    threshold = teacher.confidence[teacher.inside].mean()
    teacher = select(teacher, threshold.expand(classes), unit)
    assert 0 < teacher.valid.sum() < teacher.inside.sum()
    mask = torch.rand(images, height, width, generator=torch.Generator().manual_seed(0)) > 0.5
    _, mixed = mix(torch.zeros(images, 3, 4 * height, 4 * width), teacher, mask)
    separate, together = pseudo_regions(teacher, 1), pseudo_regions(mixed, 1)
    assert_array_equal(together.masks, reference.mix(separate.masks.numpy(), mask.numpy()))

"""CutMix and ClassMix: boxes and classes that are pasted, images and teacher's prediction alike."""

import math
from dataclasses import replace

import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import SIZES, arrays, random_prediction
from numpy.testing import assert_allclose, assert_array_equal

from rc2l_d2.regions import (
    classmix_mask,
    cutmix_mask,
    labeled_prediction,
    mix,
    neighbours,
    pseudo_regions,
    select,
    teacher_prediction,
)

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


def test_cutmix_box_follows_its_numbers():
    """Area 2 to 40 %, aspect ratio 0.3 to 1 / 0.3 on a log scale, sides at most those of the grid, any place."""
    height, width = 400, 600
    numbers = torch.rand(200, 4, generator=torch.Generator().manual_seed(1))
    for (area, ratio, y, x), box in zip(numbers.tolist(), boxes(cutmix_mask(numbers, (height, width))), strict=True):
        area, ratio = (0.02 + 0.38 * area) * height * width, math.exp((1 - 2 * ratio) * math.log(0.3))
        sides = np.minimum(np.sqrt([area * ratio, area / ratio]), (height, width))
        assert_allclose(box[2:], sides, atol=0.51)
        assert_allclose(box[:2], [y * (height - box[2]), x * (width - box[3])], atol=1)
    numbers[:, 2:] = ALMOST_ONE
    assert {(top + h, left + w) for top, left, h, w in boxes(cutmix_mask(numbers, (height, width)))} == {(400, 600)}


def test_classmix_by_hand():
    """Labels (0 0 1 2) and (2 2 2 2): two of three classes, and the one class, of the partner are pasted."""
    labels = torch.tensor([[[0, 0, 1, 2]], [[2, 2, 2, 2]]])
    semantic_map = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    teacher = teacher_prediction(semantic_map, torch.zeros(2, 1, 1, 4), torch.ones(2, 1, 4, dtype=torch.bool))
    uniform = torch.tensor([[0.9, 0.9, 0.9, 0.1], [0.3, 0.9, 0.2, 0.1]])  # class 3 is the smallest but does not occur
    mask = classmix_mask(neighbours(uniform, teacher)[1], uniform)
    assert_array_equal(mask[:, 0], [[True, True, True, True], [True, True, False, True]])


@pytest.mark.parametrize("size", SIZES)
def test_classmix_against_loops(size):
    for seed in range(4):
        teacher = random_prediction(size, seed)
        uniform = torch.rand(size[0], size[2], generator=torch.Generator().manual_seed(seed))
        mask = classmix_mask(neighbours(uniform, teacher)[1], uniform)
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
    mixed_images, mixed = mix(images, teacher, mask, *neighbours(images, teacher))
    assert mixed_images.dtype == dtype and mixed.inside.dtype == torch.bool
    assert_array_equal(mixed_images, reference.mix(before[1].numpy(), mask.numpy()))
    for name, value in before[0].items():
        assert_array_equal(getattr(mixed, name), reference.mix(value, mask.numpy()), err_msg=name)
        assert_array_equal(getattr(teacher, name), value, err_msg="mix changed its input")
    assert_array_equal(images, before[1])


def test_labels_as_a_prediction_are_certain_and_unlabelled_pixels_are_outside():
    """A label of one row: class 2, 0, no class (255 and 3), with three classes."""
    labels = torch.tensor([[[2, 0, 255, 3]]], dtype=torch.uint8)
    like = random_prediction(SIZES[0], 0)
    prediction = labeled_prediction(labels, torch.full((1, 2, 1, 4), 0.5), like)
    labelled = [True, True, False, False]
    assert prediction.label[0, 0, :2].tolist() == [2, 0] and prediction.confidence[0, 0].tolist() == [1, 1, 0, 0]
    assert prediction.inside[0, 0].tolist() == labelled and prediction.valid[0, 0].tolist() == labelled
    assert prediction.semantic_map[0, :, 0].T.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    for name, value in vars(like).items():
        assert getattr(prediction, name).dtype == value.dtype, name
    regions = pseudo_regions(prediction, 1)
    assert regions.present.tolist() == [[True, False, True]] and regions.weights.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("unit", ["region", "pixel"])
def test_regions_of_a_mixed_image_are_exact(unit):
    """A pixel of the mixed image has the label that it had where it came from, and is valid if it was there."""
    images, _, classes, _, height, width = SIZES[0]
    teacher = random_prediction(SIZES[0], 5)
    threshold = teacher.confidence[teacher.inside].mean()
    teacher = select(teacher, threshold.expand(classes), unit)
    assert 0 < teacher.valid.sum() < teacher.inside.sum()
    mask = torch.rand(images, height, width, generator=torch.Generator().manual_seed(0)) > 0.5
    views = torch.zeros(images, 3, 4 * height, 4 * width)
    _, mixed = mix(views, teacher, mask, *neighbours(views, teacher))
    separate, together = pseudo_regions(teacher, 1), pseudo_regions(mixed, 1)
    assert_array_equal(together.masks, reference.mix(separate.masks.numpy(), mask.numpy()))

"""Semantic maps, the match by class, and soft Dice."""

import math

import method_reference as reference
import pytest
import torch
from method_cases import PRECISIONS, SIZES, arrays, precision, random_case
from numpy.testing import assert_allclose

from rc2l_d2.regions import Regions, match_by_class, semantic_probabilities, semantic_scores, soft_dice

# Two queries: P = (0.5, 0.25 | 0.25) and (0.2, 0.6 | 0.2); sigmoid of the mask logits 0.75 and 0.5.
CLASS_LOGITS = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]]], dtype=torch.float64).log()
MASK_LOGITS = torch.tensor([[[[math.log(3)]], [[0.0]]]], dtype=torch.float64)


def test_semantic_map_and_match_by_hand():
    assert_allclose(semantic_scores(CLASS_LOGITS, MASK_LOGITS).flatten(), [0.475, 0.4875], rtol=1e-12)
    expected = [0.475 / 0.9625, 0.4875 / 0.9625]
    assert_allclose(semantic_probabilities(CLASS_LOGITS, MASK_LOGITS).flatten(), expected, rtol=1e-12)
    assert match_by_class(torch.tensor([[False, True], [True, True]])).tolist() == [[[0, 0], [0, 1]], [[1, 0], [0, 1]]]


def test_dice_by_hand():
    mask_logits = torch.tensor([[[[math.log(3), 0.0, -math.log(3), 0.0]]]], dtype=torch.float64)  # 0.75 0.5 0.25 0.5
    masks = torch.tensor([[[[1.0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 0]]]], dtype=torch.float64)
    valid = torch.tensor([[[True, True, True, False]]])
    expected = [3.5 / 4.5, 1.5 / 3.5, 1 / 2.5]
    assert_allclose(soft_dice(mask_logits, masks, valid).flatten(), expected, rtol=1e-12)


def compare_with_loops(regions: Regions, pseudo, context, dtype: torch.dtype, **tolerance) -> None:
    student, teacher = arrays(regions), arrays(pseudo)
    logits = student["class_logits"], student["mask_logits"]
    with context:
        pairs = [
            (semantic_scores(regions.class_logits, regions.mask_logits), reference.semantic_scores(*logits)),
            (semantic_probabilities(regions.class_logits, regions.mask_logits),
             reference.semantic_probabilities(*logits)),
            (soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid),
             reference.soft_dice(logits[1], teacher["masks"], teacher["valid"])),
        ]  # fmt: skip
    for value, expected in pairs:
        assert value.dtype == dtype
        assert_allclose(value, expected, **tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_values_against_loops(size):
    for seed in range(2):
        compare_with_loops(*random_case(size, seed), precision("float32")[1], torch.float64, rtol=1e-10)


@pytest.mark.parametrize("name", PRECISIONS[1:])
def test_half_precision_is_computed_in_float32(name):
    dtype, context = precision(name)
    case = random_case((2, 5, 3, 4, 8, 6), 3, dtype=dtype)
    compare_with_loops(*case, context, torch.float32, rtol=1e-5, atol=1e-6)

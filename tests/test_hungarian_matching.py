"""Hungarian matching of queries and pseudo regions, the ablation of the match by class."""

from __future__ import annotations

import math

import method_reference as reference
import pytest
import torch
from method_cases import SIZES, arrays, random_case, rcc, rmc
from numpy.testing import assert_array_equal

from rc2l_d2.modeling.hungarian import assign_regions
from rc2l_d2.regions import PseudoRegions, Regions


def two_queries_one_row() -> tuple[Regions, PseudoRegions]:
    """Query 0 lies on region 1 and query 1 on region 0, exactly; P = (0.5, 0.25 | ...) and (0.2, 0.6 | ...)."""
    classes = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]]], dtype=torch.float64).log()
    masks = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    regions = Regions(classes, 800 * masks.flip(1) - 400, torch.zeros(1, 1, 1, 2, dtype=torch.float64))
    weights = torch.tensor([[0.8, 0.4]], dtype=torch.float64)
    pseudo = PseudoRegions(masks, weights > 0, masks.sum(1) > 0, torch.zeros(1, 2, 1, dtype=torch.float64), weights)
    return regions, pseudo


def test_by_hand():
    regions, pseudo = two_queries_one_row()
    assignment = assign_regions(regions, pseudo, 20.0, 1.0)
    assert assignment.tolist() == [[[0, 1], [1, 0]]]
    # Dice is 1 with its own and 1/3 with the other; both halves of RMC are the same.
    to_region = math.log1p(math.exp(-(1 - 1 / 3) / 0.1))
    assert rmc(regions, pseudo, 0.1, assignment).item() == pytest.approx(to_region, rel=1e-9)
    # Region 0 has query 1 (0.2), region 1 query 0 (0.25).
    expected = -(0.8 * math.log(0.2) + 0.4 * math.log(0.25)) / 1.2
    assert rcc(regions, pseudo, 0.1, assignment).item() == pytest.approx(expected, abs=1e-5)

    # With query 0 alone region 0 has no query and is left out. The other half of RMC is 0: there is one query.
    one = Regions(regions.class_logits[:, :1], regions.mask_logits[:, :1], regions.features)
    assignment = assign_regions(one, pseudo, 20.0, 1.0)
    assert assignment.tolist() == [[[0, 1]]]
    assert rcc(one, pseudo, 0.1, assignment).item() == pytest.approx(-math.log(0.25), abs=1e-5)
    assert rmc(one, pseudo, 0.1, assignment).item() == pytest.approx(0.5 * to_region, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_against_trying_every_assignment(size):
    for seed, threshold in enumerate((0.3, 0.6, 0.9)):
        regions, pseudo = random_case(size, seed, threshold)
        student, teacher = arrays(regions), arrays(pseudo)
        logits = student["class_logits"], student["mask_logits"]
        assignment = assign_regions(regions, pseudo, 20.0, 1.0)
        cost = reference.matching_cost(*logits, teacher["masks"], teacher["valid"], 20.0, 1.0)
        expected = reference.assignment(cost, teacher["present"])
        assert_array_equal(assignment, expected)
        of_pairs = reference.region_mask_contrastive_of_pairs(logits[1], teacher, expected)
        assert rmc(regions, pseudo, 0.1, assignment).item() == pytest.approx(of_pairs, rel=1e-7, abs=1e-9)
        of_pairs = reference.region_class_consistency_of_pairs(logits[0], teacher, expected)
        assert rcc(regions, pseudo, 0.1, assignment).item() == pytest.approx(of_pairs, rel=1e-7, abs=1e-9)

"""Hungarian matching of queries and pseudo regions, the ablation of the match by class."""

from __future__ import annotations

import math

import method_reference as reference
import pytest
import torch
from method_cases import (
    EDGE_CASES,
    PRECISIONS,
    SIZES,
    arrays,
    edge_case,
    gradients,
    leaves,
    precision,
    random_case,
    rcc,
    rmc,
)
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
    expected = math.log1p(math.exp(-(1 - 1 / 3) / 0.1))
    assert rmc(regions, pseudo, 0.1, assignment).item() == pytest.approx(expected, rel=1e-9)
    # Region 0 has query 1 (0.2), region 1 query 0 (0.25).
    expected = -(0.8 * math.log(0.2) + 0.4 * math.log(0.25)) / 1.2
    assert rcc(regions, pseudo, 0.1, assignment).item() == pytest.approx(expected, abs=1e-5)


def test_a_region_without_a_query_is_left_out():
    regions, pseudo = two_queries_one_row()
    one = Regions(regions.class_logits[:, :1], regions.mask_logits[:, :1], regions.features)
    assignment = assign_regions(one, pseudo, 20.0, 1.0)
    assert assignment.tolist() == [[[0, 1]]]
    value = rcc(one, pseudo, 0.1, assignment).item()
    assert value == pytest.approx(-math.log(0.25), abs=1e-5)
    to_region = math.log1p(math.exp(-(1 - 1 / 3) / 0.1))
    value = rmc(one, pseudo, 0.1, assignment).item()
    assert value == pytest.approx(0.5 * to_region, rel=1e-9)  # The only query is its region's for certain.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_against_trying_every_assignment(size, seed):
    regions, pseudo = random_case(size, seed, threshold=[0.3, 0.6, 0.9][seed])
    student, teacher = arrays(regions), arrays(pseudo)
    logits = student["class_logits"], student["mask_logits"]
    assignment = assign_regions(regions, pseudo, 20.0, 1.0)
    expected = reference.assignment(reference.matching_cost(*logits, teacher, 20.0, 1.0), teacher["present"])
    assert_array_equal(assignment, expected)
    value = rmc(regions, pseudo, 0.1, assignment).item()
    of_pairs = reference.region_mask_contrastive_of_pairs(student["mask_logits"], teacher, expected)
    assert value == pytest.approx(of_pairs, rel=1e-7, abs=1e-9)
    value = rcc(regions, pseudo, 0.1, assignment).item()
    of_pairs = reference.region_class_consistency_of_pairs(student["class_logits"], teacher, expected)
    assert value == pytest.approx(of_pairs, rel=1e-7, abs=1e-9)


def test_a_matched_query_is_a_soft_match_that_is_certain():
    """Where every query is sure of another class, matching by class and the assignment say the same in RMC."""
    regions, pseudo = random_case((2, 3, 3, 3, 8, 8), 0, threshold=0.0)
    assert pseudo.present.all()
    classes = 60 * torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4)
    sure = Regions(classes, 4 * pseudo.masks - 2, regions.features)
    by_class = rmc(sure, pseudo).item()
    assignment = assign_regions(sure, pseudo, 20.0, 1.0)
    assert rmc(sure, pseudo, 0.1, assignment).item() == pytest.approx(by_class, rel=1e-6)


@pytest.mark.parametrize("loss", [rmc, rcc])
@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("number", PRECISIONS)
def test_edge_cases_are_finite(loss, case, number):
    dtype, context = precision(number)
    regions, pseudo = edge_case(case, dtype)
    regions = leaves(regions)
    with context:
        value = loss(regions, pseudo, 0.1, assign_regions(regions, pseudo, 20.0, 1.0))
    value.backward()
    assert value.isfinite()
    reached = [gradient for gradient in gradients(regions).values() if gradient is not None]
    assert reached and all(gradient.isfinite().all() for gradient in reached)
    if not pseudo.present.any():
        assert value.item() == 0


def test_gradients_reach_masks_in_rmc_and_classes_in_rcc():
    regions, pseudo = random_case(SIZES[0], 0)
    for loss, field in ((rmc, "mask_logits"), (rcc, "class_logits")):
        student = leaves(regions)
        loss(student, pseudo, 0.1, assign_regions(student, pseudo, 20.0, 1.0)).backward()
        reached = {name for name, grad in gradients(student).items() if grad is not None and grad.abs().sum() > 0}
        assert reached == {field}

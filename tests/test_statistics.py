"""Counts about pseudo labels."""

from __future__ import annotations

import method_reference as reference
import pytest
import torch
from method_cases import (
    EDGE_CASES,
    SIZES,
    arrays,
    cut,
    edge_case,
    random_case,
    random_prediction,
    random_regions,
    semantic_map,
)

from rc2l_d2.regions import (
    PseudoRegions,
    agreement_counts,
    coverage_counts,
    label_counts,
    quality_counts,
    teacher_prediction,
)


def one_row(labels: list, classes: int, inside: int) -> PseudoRegions:
    """One image of one row with these pseudo labels, None where not confident; ``inside`` pixels are no padding."""
    masks = torch.tensor([[[[float(label == c) for label in labels]] for c in range(classes)]])
    present = masks.sum(dim=(2, 3)) > 0
    teacher = teacher_prediction(masks, torch.zeros_like(masks), torch.arange(len(labels)).view(1, 1, -1) < inside)
    return PseudoRegions(masks, present, masks.sum(1) > 0, torch.zeros(1, classes, 1), present.float(), teacher)


def as_lists(counts: dict[str, torch.Tensor]) -> dict:
    return {name: count.tolist() for name, count in counts.items()}


def test_quality_by_hand():
    pseudo = one_row([0, 0, 1, 1, None, None, 2], classes=4, inside=7)
    labels = torch.tensor([[[0, 1, 1, 1, 2, 255, 255]]], dtype=torch.uint8)
    counts = as_lists(quality_counts(pseudo, labels))
    assert counts == {"labelled": [1, 3, 1, 0], "claimed": [2, 2, 0, 0], "correct": [1, 2, 0, 0]}


def test_coverage_by_hand():
    assert as_lists(coverage_counts(one_row([0, 0, 2, None, None], classes=4, inside=4))) == {
        "positions": 4, "confident": 3, "images": 1, "regions": 2, "classes": 4, "classes_present": 2,
        "pseudo_area": [2, 0, 1, 0],
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_by_hand(dtype):
    labels = torch.tensor([[[0, 1, 1]], [[255, 4, 1]]], dtype=dtype)
    assert label_counts(labels, 4)["label_area"].tolist() == [1, 3, 0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_counts_against_loops(size, threshold):
    pseudo, regions = cut(random_prediction(size, 0), threshold, min_area=2), random_regions(size, 0)
    student = arrays(regions)
    scores = reference.semantic_scores(student["class_logits"], student["mask_logits"])
    labels = torch.randint(-1, size[2] + 2, pseudo.valid.shape, generator=torch.Generator().manual_seed(0))
    compared = agreed = 0
    area, labelled, claimed, correct = ([0] * size[2] for _ in range(4))
    for b in range(size[0]):
        for y in range(size[4]):
            for x in range(size[5]):
                truth = int(labels[b, y, x])
                given = [c for c in range(size[2]) if pseudo.masks[b, c, y, x]]
                if given:
                    compared += 1
                    area[given[0]] += 1
                    agreed += reference.label_and_confidence(scores, b, y, x)[0] == given[0]
                if 0 <= truth < size[2]:
                    labelled[truth] += 1
                    if given:
                        claimed[given[0]] += 1
                        correct[truth] += given[0] == truth
    assert as_lists(agreement_counts(semantic_map(regions), pseudo)) == {"compared": compared, "agreed": agreed}
    assert as_lists(quality_counts(pseudo, labels)) == {"labelled": labelled, "claimed": claimed, "correct": correct}
    coverage = as_lists(coverage_counts(pseudo))
    assert coverage["pseudo_area"] == area and coverage["confident"] == compared
    assert coverage["positions"] == int(pseudo.teacher.inside.sum())
    assert coverage["classes_present"] == sum(bool(pseudo.present[:, c].any()) for c in range(size[2]))


@pytest.mark.parametrize("case", EDGE_CASES)
def test_counts_of_edge_cases(case):
    regions, pseudo = edge_case(case)
    counts = agreement_counts(semantic_map(regions), pseudo)
    assert 0 <= counts["agreed"] <= counts["compared"] == pseudo.valid.sum()
    nothing = quality_counts(pseudo, torch.full(pseudo.valid.shape, 255, dtype=torch.uint8))
    assert not any(count.any() for count in nothing.values())


def test_counts_have_no_gradient():
    regions, pseudo = random_case(SIZES[0], 0)
    regions.mask_logits.requires_grad_()
    assert not any(count.requires_grad for count in agreement_counts(semantic_map(regions), pseudo).values())

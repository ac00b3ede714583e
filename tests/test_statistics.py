"""What is counted about pseudo labels."""

from __future__ import annotations

import method_reference as reference
import pytest
import torch
from method_cases import EDGE_CASES, SIZES, arrays, edge_case, random_case, random_regions, random_view, semantic_map

from rc2l_d2.regions import agreement_counts, coverage_counts, label_counts, pseudo_regions, quality_counts, select
from rc2l_d2.regions.types import PseudoRegions, TeacherView


def one_row(labels: list, classes: int) -> PseudoRegions:
    """One image of one row with these pseudo labels, None where not confident."""
    masks = torch.tensor([[[[float(label == c) for label in labels]] for c in range(classes)]])
    present = masks.sum(dim=(2, 3)) > 0
    return PseudoRegions(masks, present, masks.sum(1) > 0, torch.zeros(1, classes, 1), present.float())


def test_quality_by_hand():
    pseudo = one_row([0, 0, 1, 1, None, None, 2], classes=4)
    labels = torch.tensor([[[0, 1, 1, 1, 2, 255, 255]]], dtype=torch.uint8)
    counts = {name: count.tolist() for name, count in quality_counts(pseudo, labels).items()}
    assert counts == {"labelled": [1, 3, 1, 0], "claimed": [2, 2, 0, 0], "correct": [1, 2, 0, 0]}


def test_coverage_by_hand():
    pseudo = one_row([0, 0, 2, None, None], classes=4)
    view = TeacherView(torch.zeros(1, 4, 1, 5), torch.zeros(1, 1, 1, 5), torch.tensor([[[True] * 4 + [False]]]))
    counts = {name: count.tolist() for name, count in coverage_counts(view, pseudo).items()}
    assert counts == {
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
    view = random_view(size, 0)
    pseudo = pseudo_regions(select(view, torch.full((size[2],), threshold), "pixel"), 2)
    regions = random_regions(size, 0)
    student = arrays(regions)
    scores = reference.semantic_scores(student["class_logits"], student["mask_logits"])
    labels = torch.randint(-1, size[2] + 2, view.inside.shape, generator=torch.Generator().manual_seed(0))
    asked = agreed = 0
    claimed_of_all = [0] * size[2]
    labelled, claimed, correct = ([0] * size[2] for _ in range(3))
    for b in range(size[0]):
        for y in range(size[4]):
            for x in range(size[5]):
                truth = int(labels[b, y, x])
                given = [c for c in range(size[2]) if pseudo.masks[b, c, y, x]]
                if given:
                    asked += 1
                    claimed_of_all[given[0]] += 1
                    agreed += reference.label_and_confidence(scores, b, y, x)[0] == given[0]
                if 0 <= truth < size[2]:
                    labelled[truth] += 1
                    if given:
                        claimed[given[0]] += 1
                        correct[truth] += given[0] == truth
    counts = agreement_counts(semantic_map(regions), pseudo)
    assert (counts["asked"].item(), counts["agreed"].item()) == (asked, agreed)
    counts = {name: count.tolist() for name, count in quality_counts(pseudo, labels).items()}
    assert counts == {"labelled": labelled, "claimed": claimed, "correct": correct}
    coverage = {name: count.tolist() for name, count in coverage_counts(view, pseudo).items()}
    assert coverage["pseudo_area"] == pseudo.masks.sum(dim=(0, 2, 3)).tolist() == claimed_of_all
    assert coverage["confident"] == asked and coverage["positions"] == int(view.inside.sum())
    assert coverage["classes_present"] == sum(bool(pseudo.present[:, c].any()) for c in range(size[2]))


@pytest.mark.parametrize("case", EDGE_CASES)
def test_counts_of_edge_cases_are_within_their_wholes(case):
    regions, pseudo = edge_case(case)
    counts = agreement_counts(semantic_map(regions), pseudo)
    assert 0 <= counts["agreed"] <= counts["asked"] == pseudo.valid.sum()
    nothing = quality_counts(pseudo, torch.full(pseudo.valid.shape, 255, dtype=torch.uint8))
    assert not any(count.any() for count in nothing.values())


def test_counts_have_no_gradient():
    regions, pseudo = random_case(SIZES[0], 0)
    regions.mask_logits.requires_grad_()
    assert not any(count.requires_grad for count in agreement_counts(semantic_map(regions), pseudo).values())

"""Counts about pseudo labels."""

import method_reference as reference
import pytest
import torch
from method_cases import SIZES, arrays, cut, random_prediction, random_regions, semantic_map

from rc2l_d2.regions import agreement_counts, coverage_counts, label_counts, quality_counts


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_by_hand(dtype):
    labels = torch.tensor([[[0, 1, 1]], [[255, 4, 1]]], dtype=dtype)
    assert label_counts(labels, 4)["label_area"].tolist() == [1, 3, 0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_counts_against_loops(size, threshold):
    pseudo, regions = cut(random_prediction(size, 0), threshold, min_area=2), random_regions(size, 0)
    student = arrays(regions)
    regions.mask_logits.requires_grad_()
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
    agreement = agreement_counts(semantic_map(regions), pseudo)
    assert not any(count.requires_grad for count in agreement.values())
    counts = agreement | quality_counts(pseudo, labels) | coverage_counts(pseudo)
    assert {name: count.tolist() for name, count in counts.items()} == {
        "compared": compared, "agreed": agreed, "labelled": labelled, "claimed": claimed, "correct": correct,
        "pixels": int(pseudo.teacher.inside.sum()), "confident": compared, "pseudo_area": area,
        "images": size[0], "regions": int(pseudo.present.sum()), "classes": size[2],
        "classes_present": sum(bool(pseudo.present[:, c].any()) for c in range(size[2])),
    }  # fmt: skip

"""The supervised loss of class queries against float64 loops written from its formulas."""

import math
from dataclasses import replace

import method_reference as reference
import numpy as np
import pytest
import torch
from test_set_criterion import IGNORE, random_labels, values
from test_set_criterion import random_regions as regions_of_queries

from rc2l_d2.modeling.class_criterion import ClassCriterion, class_fractions, mask_losses
from rc2l_d2.regions import Regions

CLASSES = 4


def random_regions() -> Regions:
    regions = regions_of_queries(queries=CLASSES, auxiliary=0)
    class_logits = regions.class_logits.detach().clone()
    class_logits[..., -1] = -1e4
    return replace(regions, class_logits=class_logits.requires_grad_())


def expected_losses(class_logits, mask_logits, labels):
    """By loops: every mask is enlarged by repeating its pixels."""
    probability, labels = reference.class_probabilities(class_logits.detach().double().numpy()), labels.numpy()
    masks = reference.mask_probabilities(mask_logits.detach().double().numpy())
    rows, columns = labels.shape[1] // masks.shape[2], labels.shape[2] // masks.shape[3]
    masks = masks.repeat(rows, axis=2).repeat(columns, axis=3)
    pixels = rows * columns
    # The target of query k is class k, of which 0.05 are spread over all classes.
    smooth = 0.95 * np.eye(CLASSES) + 0.05 / CLASSES
    ce, mask, dice = [], [], []
    for b in range(len(labels)):
        valid = labels[b] < CLASSES
        mask += [-math.log(masks[b, labels[b, y, x], y, x]) for y, x in np.argwhere(valid)]
        for k in range(CLASSES):
            target = labels[b] == k
            if target.any():
                ce.append(-(smooth[k] * np.log(probability[b, k, :CLASSES])).sum())
                # The constant of the Dice loss counts mask pixels.
                p = masks[b, k][valid]
                dice.append(1 - (2 * (p * target[valid]).sum() + pixels) / (p.sum() + target.sum() + pixels))
    return [float(np.mean(terms)) for terms in (ce, mask, dice)]


@pytest.mark.parametrize("void", [False, True])
def test_losses_equal_independent_loops(void):
    regions, labels = random_regions(), random_labels()
    # Mask pixels with several classes, one of them once; one class is absent from the second image.
    labels[0, :7, :9], labels[0, 13, 2], labels[1][labels[1] == 3] = 1, 2, 0
    if void:
        labels[0, 3:9, 5:14], labels[1, :, 20:], labels[1, 0, 0] = IGNORE, IGNORE, 77
    losses = values(ClassCriterion(CLASSES)(regions, labels))
    expected = expected_losses(regions.class_logits, regions.mask_logits, labels)
    assert list(losses) == ["loss_ce", "loss_mask", "loss_dice"]
    assert list(losses.values()) == pytest.approx(expected, rel=1e-5)


def test_an_image_without_a_label_is_left_out():
    regions, labels = random_regions(), random_labels()
    labels[1] = IGNORE
    expected = expected_losses(regions.class_logits, regions.mask_logits, labels)
    assert list(values(ClassCriterion(CLASSES)(regions, labels)).values()) == pytest.approx(expected, rel=1e-5)
    first = regions.images(0, 1)
    assert values(ClassCriterion(CLASSES)(first, labels[:1])) == pytest.approx(
        values(ClassCriterion(CLASSES)(regions, labels))
    )


def test_fractions_of_a_mask_pixel_by_hand():
    """Two by three mask pixels of 2 x 2 pixels; the last column and row lie outside of the image of 3 x 5 pixels."""
    slots = torch.tensor([[[0, 0, 1, 2, 2], [0, 1, 3, 3, 2], [1, 1, 1, 1, 0]]])  # 3: no class
    regions = Regions(torch.zeros(1, 3, 4), torch.zeros(1, 3, 2, 3), torch.zeros(1, 1, 2, 3))
    expected = [[[0.75, 0, 0], [0, 0, 0.25]], [[0.25, 0.25, 0], [0.5, 0.5, 0]], [[0, 0.25, 0.5], [0, 0, 0]]]
    assert class_fractions(slots, 3, regions)[0].tolist() == expected


def test_gradients_of_the_mask_losses():
    logits = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fractions = torch.rand(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 3
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, fractions), logits)


def test_label_type_ignore_value_and_autocast_do_not_change_the_losses():
    regions, labels = random_regions(), random_labels()
    labels[0, :8] = IGNORE
    expected = values(ClassCriterion(CLASSES)(regions, labels))
    assert values(ClassCriterion(CLASSES)(regions, labels.long())) == expected
    moved = labels.long().masked_fill(labels == IGNORE, -1)
    assert values(ClassCriterion(CLASSES, ignore_value=-1)(regions, moved)) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = ClassCriterion(CLASSES)(regions, labels)
    assert values(losses) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_labelled_pixel_is_zero_and_connected(dtype):
    regions = random_regions()
    half = Regions(*((60 * x).to(dtype) for x in (regions.class_logits, regions.mask_logits, regions.features)))
    losses = ClassCriterion(CLASSES)(half, torch.full((2, 16, 24), IGNORE, dtype=torch.uint8))
    assert all(loss.dtype is torch.float32 and loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for leaf in (regions.class_logits, regions.mask_logits):
        assert leaf.grad is not None and not leaf.grad.any()

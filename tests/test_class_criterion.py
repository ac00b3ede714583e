"""The supervised loss of class queries against float64 loops written from its formulas."""

import math

import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import leaves, random_case
from test_set_criterion import IGNORE, random_labels, values
from test_set_criterion import random_regions as regions_of_queries

from rc2l_d2.modeling.class_criterion import ClassCriterion, class_fractions, soft_mask_losses
from rc2l_d2.modeling.set_criterion import mask_losses
from rc2l_d2.regions import Regions

CLASSES = 4


def random_regions() -> Regions:
    return regions_of_queries(queries=CLASSES)


def expected_losses(class_logits, mask_logits, labels, no_object_weight, mask_weight, dice_weight):
    """One layer by loops: every mask is enlarged by repeating its pixels, then MaskFormer's losses of a pair."""
    probability, labels = reference.class_probabilities(class_logits.detach().double().numpy()), labels.numpy()
    masks = reference.mask_probabilities(mask_logits.detach().double().numpy())
    rows, columns = labels.shape[1] // masks.shape[2], labels.shape[2] // masks.shape[3]
    masks = masks.repeat(rows, axis=2).repeat(columns, axis=3)
    pixels = rows * columns
    ce = weight = focal = dice = targets = 0.0
    for b, k in np.ndindex(len(labels), CLASSES):
        target, valid = labels[b] == k, labels[b] < CLASSES
        if target.any():
            p = masks[b, k][valid]
            focal += reference.focal(masks[b, k], target, valid)
            # The constant of the Dice loss counts mask pixels.
            dice += 1 - (2 * (p * target[valid]).sum() + pixels) / (p.sum() + target.sum() + pixels)
            targets += 1
        c, w = (k, 1.0) if target.any() else (CLASSES, no_object_weight)
        ce, weight = ce - w * math.log(probability[b, k, c]), weight + w
    return ce / weight, mask_weight * focal / targets, dice_weight * dice / targets


@pytest.mark.parametrize("void", [False, True])
def test_losses_equal_independent_loops(void):
    regions, labels = random_regions(), random_labels()
    # Mask pixels with several classes, one of them once; one class is absent from the second image.
    labels[0, :7, :9], labels[0, 13, 2], labels[1][labels[1] == 3] = 1, 2, 0
    weights = {"no_object_weight": 0.1, "mask_weight": 20.0, "dice_weight": 1.0}
    if void:
        labels[0, 3:9, 5:14], labels[1, :, 20:], labels[1, 0, 0] = IGNORE, IGNORE, 77
        weights = {"no_object_weight": 0.5, "mask_weight": 3.0, "dice_weight": 2.0}
    criterion = ClassCriterion(CLASSES, **weights) if void else ClassCriterion(CLASSES)  # the default weights
    losses = values(criterion(regions, labels))
    layers = {"_0": regions.auxiliary[0], "_1": regions.auxiliary[1], "": (regions.class_logits, regions.mask_logits)}
    assert len(losses) == 9
    for suffix, layer in layers.items():
        got = [losses[name + suffix] for name in ("loss_ce", "loss_mask", "loss_dice")]
        assert got == pytest.approx(expected_losses(*layer, labels, **weights), rel=1e-5), suffix


def test_fractions_of_a_mask_pixel_by_hand():
    """Two by three mask pixels of 2 x 2 pixels; the last column and row lie outside of the image of 3 x 5 pixels."""
    slots = torch.tensor([[[0, 0, 1, 2, 2], [0, 1, 3, 3, 2], [1, 1, 1, 1, 0]]])  # 3: no class
    regions = Regions(torch.zeros(1, 3, 4), torch.zeros(1, 3, 2, 3), torch.zeros(1, 1, 2, 3))
    expected = [[[0.75, 0, 0], [0, 0, 0.25]], [[0.25, 0.25, 0], [0.5, 0.5, 0]], [[0, 0.25, 0.5], [0, 0, 0]]]
    assert class_fractions(slots, 3, regions)[0].tolist() == expected


def test_whole_mask_pixels_have_the_set_losses_at_the_mask_grid():
    regions, labels = random_regions(), random_labels()[:, ::4, ::8]
    logits = torch.randn(2, CLASSES, *labels.shape[1:], generator=torch.Generator().manual_seed(0))
    regions = Regions(regions.class_logits, logits, regions.features)
    focal, dice = soft_mask_losses(logits, class_fractions(labels.long(), CLASSES, regions))
    targets = labels[:, None] == torch.arange(CLASSES)[:, None, None]
    expected = mask_losses(logits.flatten(0, 1), targets.flatten(0, 1), torch.ones_like(targets).flatten(0, 1))
    torch.testing.assert_close((focal.flatten(), dice.flatten()), expected)


def test_gradients_of_the_mask_losses():
    logits = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fractions = torch.rand(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 3
    assert torch.autograd.gradcheck(lambda x: soft_mask_losses(x, fractions), logits)


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


@pytest.mark.parametrize("no_object_weight", [0.1, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_labelled_pixel_is_finite_and_connected(no_object_weight, dtype):
    regions = random_regions()
    inputs = [regions.class_logits, regions.mask_logits, *regions.auxiliary[0]]
    half = Regions(
        *((60 * x).to(dtype) for x in (regions.class_logits, regions.mask_logits, regions.features)),
        tuple((classes.to(dtype), masks.to(dtype)) for classes, masks in regions.auxiliary),
    )
    labels = torch.full((2, 16, 24), IGNORE, dtype=torch.uint8)
    losses = ClassCriterion(CLASSES, no_object_weight=no_object_weight)(half, labels)
    assert losses["loss_mask"] == 0 and losses["loss_dice_0"] == 0
    assert all(loss.dtype is torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in inputs)


def test_pseudo_regions_are_matched_to_the_query_of_their_class():
    regions, pseudo = random_case((2, CLASSES, CLASSES, 3, 5, 4), 0)
    match = ClassCriterion(CLASSES).match_regions(leaves(regions), pseudo)
    for b, i, c in np.ndindex(*match.shape):
        assert match[b, i, c] == (i == c and bool(pseudo.present[b, c]))

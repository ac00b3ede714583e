"""The supervised losses against float64 loops written from their formulas, and the matching against brute force."""

import math
from dataclasses import replace

import method_cases
import method_reference as reference
import numpy as np
import pytest
import torch
from method_cases import leaves
from torch.nn import functional as F

from rc2l_d2.modeling.hungarian import hungarian_match, matching_cost
from rc2l_d2.modeling.set_criterion import SetCriterion, mask_losses
from rc2l_d2.regions.types import Regions

IGNORE = 255


def random_regions(queries=6, auxiliary=2) -> Regions:
    """Two images, four classes, masks of 4 x 6 pixels; every layer can collect gradients."""
    size = (2, queries, 4, 1, 4, 6)
    first, *earlier = (leaves(method_cases.random_regions(size, n, torch.float32)) for n in range(auxiliary + 1))
    return replace(first, auxiliary=tuple((regions.class_logits, regions.mask_logits) for regions in earlier))


def random_labels() -> torch.Tensor:
    small = torch.randint(4, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    return small.repeat_interleave(4, dim=1).repeat_interleave(8, dim=2).to(torch.uint8)


def expected_losses(class_logits, mask_logits, labels, classes, no_object_weight, mask_weight, dice_weight):
    """All three losses of one layer by loops in float64, the assignment by trying every permutation."""
    mask_logits = mask_logits.detach().double()
    large = F.interpolate(mask_logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    step = [big // little for big, little in zip(labels.shape[-2:], mask_logits.shape[-2:], strict=True)]
    class_logits, mask_logits, labels = class_logits.detach().double().numpy(), mask_logits.numpy(), labels.numpy()
    small = labels[:, :: step[0], :: step[1]]
    slots = np.arange(classes)[:, None, None]
    present = (labels[:, None] == slots).any(axis=(2, 3))
    cost = reference.matching_cost(
        class_logits, mask_logits, small[:, None] == slots, small != IGNORE, mask_weight, dice_weight
    )
    pairs = reference.assignment(cost, present)
    probability, student = reference.class_probabilities(class_logits), reference.mask_probabilities(large.numpy())
    ce = weight = focal = dice = 0.0
    for b, q in np.ndindex(*class_logits.shape[:2]):
        matched = np.flatnonzero(pairs[b, q])
        for c in matched:
            pair = student[b, q], labels[b] == c, labels[b] != IGNORE
            focal, dice = focal + reference.focal(*pair), dice + 1 - reference.dice(*pair)
        c, w = (matched[0], 1.0) if len(matched) else (classes, no_object_weight)
        ce, weight = ce - w * math.log(probability[b, q, c]), weight + w
    targets = max(present.sum(), 1)
    return ce / weight, mask_weight * focal / targets, dice_weight * dice / targets


def values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}


@pytest.mark.parametrize("void", [False, True])
def test_losses_equal_independent_loops(void):
    regions, labels = random_regions(), random_labels()
    weights = {"no_object_weight": 0.1, "mask_weight": 20.0, "dice_weight": 1.0}
    if void:
        labels[0, 3:9, 5:14] = IGNORE
        labels[1, :, 20:] = IGNORE
        weights = {"no_object_weight": 0.5, "mask_weight": 3.0, "dice_weight": 2.0}
    criterion = SetCriterion(4, **weights) if void else SetCriterion(4)  # the default weights
    losses = values(criterion(regions, labels))
    layers = {"_0": regions.auxiliary[0], "_1": regions.auxiliary[1], "": (regions.class_logits, regions.mask_logits)}
    assert len(losses) == 9
    for suffix, layer in layers.items():
        expected = expected_losses(*layer, labels, 4, **weights)
        got = [losses[name + suffix] for name in ("loss_ce", "loss_mask", "loss_dice")]
        assert got == pytest.approx(expected, rel=1e-5), suffix


def test_mask_losses_have_correct_gradients():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    valid = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(2)) > 0.3
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, targets, valid), logits)


@pytest.mark.parametrize("queries, classes", [(5, 3), (3, 3), (3, 5), (1, 4)])
def test_matching_equals_brute_force(queries, classes):
    generator = torch.Generator().manual_seed(queries * 10 + classes)
    cost = torch.randn(2, 3, queries, classes, generator=generator)
    present = torch.rand(3, classes, generator=generator) > 0.3
    present[1] = False
    pairs = hungarian_match(cost, present)
    assert pairs.shape == (2, 3, sum(min(queries, int(n)) for n in present.sum(1)))
    for layer in range(2):
        assigned = torch.zeros_like(cost[layer])
        assigned[tuple(pairs[layer])] = 1
        assert assigned.numpy() == pytest.approx(reference.assignment(cost[layer].numpy(), present.numpy()))


def test_non_finite_predictions_have_a_finite_cost_and_a_nan_loss():
    classes, masks = torch.randn(1, 4, 3), torch.randn(1, 4, 2, 2)
    classes[0, 0], masks[0, 1], masks[0, 2, 0, 0], masks[0, 3] = torch.nan, torch.nan, torch.inf, -torch.inf
    targets = torch.zeros(1, 2, 2, 2)
    targets[:, 0] = 1
    cost = matching_cost(classes, masks, targets, torch.ones(1, 2, 2), 20.0, 1.0)
    assert cost.isfinite().all()
    assert hungarian_match(cost[None], torch.tensor([[True, False]])).shape == (1, 3, 1)
    regions = random_regions(auxiliary=0)
    regions.class_logits.data[0, 0] = torch.nan
    assert SetCriterion(4)(regions, random_labels())["loss_ce"].isnan()


def test_label_type_ignore_value_and_autocast_do_not_change_the_losses():
    regions, labels = random_regions(), random_labels()
    labels[0, :8] = IGNORE
    expected = values(SetCriterion(4)(regions, labels))
    assert values(SetCriterion(4)(regions, labels.long())) == expected
    moved = labels.long().masked_fill(labels == IGNORE, -1)
    assert values(SetCriterion(4, ignore_value=-1)(regions, moved)) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetCriterion(4)(regions, labels)
    assert values(losses) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("no_object_weight", [0.1, 0.0])
def test_no_labelled_pixel_is_finite_and_connected(no_object_weight):
    regions = random_regions(auxiliary=1)
    inputs = [regions.class_logits, regions.mask_logits, *regions.auxiliary[0]]
    labels = torch.full((2, 16, 24), IGNORE, dtype=torch.uint8)
    losses = SetCriterion(4, no_object_weight=no_object_weight)(regions, labels)
    assert losses["loss_mask"] == 0 and losses["loss_dice_0"] == 0
    sum(losses.values()).backward()
    for leaf in inputs:
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_give_finite_float32_losses(dtype):
    regions, labels = random_regions(auxiliary=1), random_labels()
    labels[0] = 2
    labels[1, :, :8] = IGNORE
    inputs = [regions.class_logits, regions.mask_logits, *regions.auxiliary[0]]
    half = Regions(
        *((60 * x).to(dtype) for x in (regions.class_logits, regions.mask_logits, regions.features)),
        tuple((classes.to(dtype), masks.to(dtype)) for classes, masks in regions.auxiliary),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetCriterion(4)(half, labels)
    assert all(loss.dtype is torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(leaf.grad.isfinite().all() and leaf.grad.any() for leaf in inputs)


def test_a_class_too_small_for_the_mask_grid_is_still_a_target():
    """Also with fewer queries than classes."""
    regions, labels = random_regions(auxiliary=0, queries=2), random_labels()
    labels[labels == 3] = 0
    before = SetCriterion(4)(regions, labels)
    labels[0, 1, 1] = 3
    after = SetCriterion(4)(regions, labels)
    assert all(loss.isfinite() for loss in after.values()) and after["loss_dice"] != before["loss_dice"]

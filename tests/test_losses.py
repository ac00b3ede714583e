"""All unlabelled losses and Hungarian matching: values, gradients, edge cases, precision."""

import math
from dataclasses import replace

import method_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import (
    EDGE_CASES,
    FIELDS,
    PRECISIONS,
    SIZES,
    arrays,
    edge_case,
    gradients,
    in_double,
    in_order,
    leaves,
    pixel_consistency,
    pixel_contrast,
    precision,
    random_case,
    rcc,
    reached,
    rfc,
    rmc,
    smc,
)

from rc2l_d2.modeling.hungarian import assign_regions
from rc2l_d2.regions import PseudoRegions, Regions


def by_cost(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    return assign_regions(regions, pseudo, 20.0, 1.0)


def hungarian(loss):
    """Return ``loss`` (RMC or RCC) with Hungarian matching."""
    return lambda regions, pseudo: loss(regions, pseudo, match=by_cost)


LOSSES = {"rmc": rmc, "rfc": rfc, "rcc": rcc, "smc": smc, "pixel": pixel_consistency, "contrast": pixel_contrast}
MATCHED = {"hungarian rmc": hungarian(rmc), "hungarian rcc": hungarian(rcc)}
REACHED = {  # the inputs that each loss has a gradient for
    "hungarian rmc": {"mask_logits"},
    "hungarian rcc": {"class_logits"},
    "pixel": {"class_logits", "mask_logits"},
    "contrast": {"features"},
    "rmc": {"mask_logits"},
    "rfc": {"class_logits", "mask_logits", "features"},
    "rcc": {"class_logits"},
    "smc": {"class_logits", "mask_logits"},
}
CHOICES = [{}, {"temperature": 0.05}, {"temperature": 0.5}]
every_loss = pytest.mark.parametrize("name", LOSSES)


def reference_value(name: str, regions: Regions, pseudo: PseudoRegions, **options) -> float:
    student, teacher = arrays(regions), arrays(pseudo)
    logits = student["class_logits"], student["mask_logits"]
    if name == "contrast":
        return reference.pixel_contrastive(student["features"], arrays(pseudo.teacher), **options)
    if name == "rfc":
        return reference.region_feature_contrastive(*logits, student["features"], teacher, **options)
    function = {
        "rmc": reference.region_mask_contrastive,
        "rcc": reference.region_class_consistency,
        "smc": reference.semantic_mask_consistency,
        "pixel": reference.pixel_consistency,
    }[name]
    return function(*logits, teacher, **options)


def slots(masks: list, weights: list, features: list | None = None) -> PseudoRegions:
    """One image of one row: ``masks`` (K, w), every slot with a weight present."""
    mask = torch.tensor(masks, dtype=torch.float64)[None, :, None]
    weight = torch.tensor([weights], dtype=torch.float64)
    feature = torch.zeros(1, len(weights), 1) if features is None else torch.tensor([features])
    return PseudoRegions(mask, weight > 0, mask.sum(dim=1) > 0, feature.double(), weight)


def student(probabilities: list, mask_logits: list, features: list | None = None) -> Regions:
    """One image of one row: ``probabilities`` (N, K+1), ``mask_logits`` (N, w), ``features`` (C, w)."""
    masks = torch.tensor(mask_logits, dtype=torch.float64)[None, :, None]
    feature = torch.zeros(1, masks.shape[-1]) if features is None else torch.tensor(features)
    return Regions(torch.tensor([probabilities]).double().log(), masks, feature.double()[None, :, None])


class TestByHand:
    def test_one_region_two_queries_with_the_same_mask(self):
        """Query to region: one candidate, 0. Region to query: two equal candidates, log 2. RCC: -log 0.5."""
        regions = student([[0.5, 0.2, 0.3], [0.25, 0.25, 0.5]], [[1.0, 1.0], [1.0, 1.0]])
        pseudo = slots([[1, 1], [0, 0]], [0.8, 0.0])
        assert rmc(regions, pseudo).item() == pytest.approx(0.5 * math.log(2), abs=1e-8)
        assert rcc(regions, pseudo).item() == pytest.approx(math.log(2), abs=1e-5)

    def test_two_queries_between_two_regions(self):
        """Both halves of RMC: log 2. RCC: (0.8 log 2 + 0.4 log 4) / 1.2."""
        regions = student([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [[0.3, 0.3], [0.3, 0.3]])
        pseudo = slots([[1, 0], [0, 1]], [0.8, 0.4])
        assert rmc(regions, pseudo).item() == pytest.approx(math.log(2), abs=1e-8)
        assert rcc(regions, pseudo).item() == pytest.approx(math.log(2) * 4 / 3, abs=1e-5)

    def test_hungarian_matching(self):
        """Query 0 lies on region 1 and query 1 on region 0. Dice is 1 with the own region, 1/3 with the other."""
        regions = student([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]], [[-400.0, 400.0], [400.0, -400.0]])
        pseudo = slots([[1, 0], [0, 1]], [0.8, 0.4])
        assert assign_regions(regions, pseudo, 20.0, 1.0).tolist() == [[[0, 1], [1, 0]]]
        to_region = math.log1p(math.exp(-(1 - 1 / 3) / 0.1))  # both halves of RMC
        assert hungarian(rmc)(regions, pseudo).item() == pytest.approx(to_region, rel=1e-9)
        expected = -(0.8 * math.log(0.2) + 0.4 * math.log(0.25)) / 1.2
        assert hungarian(rcc)(regions, pseudo).item() == pytest.approx(expected, abs=1e-5)

        # With query 0 alone, region 0 is left out, and so is RMC's choice between queries.
        one = student([[0.5, 0.25, 0.25]], [[-400.0, 400.0]])
        assert assign_regions(one, pseudo, 20.0, 1.0).tolist() == [[[0, 1]]]
        assert hungarian(rmc)(one, pseudo).item() == pytest.approx(0.5 * to_region, rel=1e-9)
        assert hungarian(rcc)(one, pseudo).item() == pytest.approx(-math.log(0.25), abs=1e-5)

    def test_features_that_are_all_of_the_first_class(self):
        """Cosines 1 and 0 over 0.1: log(1 + exp(-10)) for the first anchor, 10 more for the second."""
        regions = student([[0.5, 0.25, 0.25]], [[0.3, 0.3]], [[2.0, 2.0], [0.0, 0.0]])
        pseudo = slots([[1, 0], [0, 1]], [0.8, 0.4], [[3.0, 0.0], [0.0, 0.1]])
        assert rfc(regions, pseudo).item() == pytest.approx(5.000045399, abs=1e-6)

    def test_semantic_map_of_a_half(self):
        """Three of four pixels valid, s = 0.5: 3 log 2 / 4; SMC adds half of (0.8 / 3 + 0.4 * 3 / 7) / 1.2."""
        regions = student([[0.4, 0.4, 0.2]], [[0.3, 1.0, -1.0, 2.0]])
        pseudo = slots([[1, 1, 0, 0], [0, 0, 1, 0]], [0.8, 0.4])
        assert pixel_consistency(regions, pseudo).item() == pytest.approx(0.75 * math.log(2), abs=1e-5)
        expected = 3 * math.log(2) / 4 + 0.5 * (0.8 / 3 + 0.4 * 3 / 7) / 1.2
        assert smc(regions, pseudo).item() == pytest.approx(expected, abs=1e-5)


@every_loss
@pytest.mark.parametrize("size", SIZES)
def test_value_against_loops(name, size):
    for seed, threshold in [(0, 0.5), (1, 0.7), (2, 0.9)]:
        regions, pseudo = random_case(size, seed, threshold)
        for options in CHOICES if name in ("rmc", "rfc", "contrast") and not seed else [{}]:
            value = LOSSES[name](regions, pseudo, *options.values())
            assert value.shape == () and value.dtype == torch.float64
            expected = reference_value(name, regions, pseudo, **options)
            assert value.item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_hungarian_matching_against_all_assignments(size):
    for seed, threshold in enumerate((0.3, 0.6, 0.9)):
        regions, pseudo = random_case(size, seed, threshold)
        values, teacher = arrays(regions), arrays(pseudo)
        logits = values["class_logits"], values["mask_logits"]
        cost = reference.matching_cost(*logits, teacher["masks"], teacher["valid"], 20.0, 1.0)
        pairs = reference.assignment(cost, teacher["present"])
        assert assign_regions(regions, pseudo, 20.0, 1.0).numpy() == pytest.approx(pairs)
        for name, loss in (("rmc", rmc), ("rcc", rcc)):
            expected = reference_value(name, regions, pseudo, pairs=pairs)
            assert hungarian(loss)(regions, pseudo).item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("images", [1, 5])
def test_keys_of_other_ranks_against_loops(images, monkeypatch):
    def gather(keys: torch.Tensor, present: torch.Tensor) -> None:
        gathered = {torch.float64: keys, torch.bool: present}
        monkeypatch.setattr("rc2l_d2.regions.losses.gather_over_ranks", lambda own: gathered[own.dtype])

    regions, pseudo = random_case(SIZES[0], 1)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(images, *pseudo.features.shape[1:], generator=generator, dtype=torch.float64)
    present = torch.rand(images, pseudo.present.shape[1], generator=generator) > 0.4
    present[0] = True
    gather(keys, present)
    student_leaves = leaves(regions)
    value = rfc(student_leaves, pseudo)
    gathered = {"keys": keys.numpy(), "keys_present": present.numpy()}
    assert value.item() == pytest.approx(reference_value("rfc", regions, pseudo, **gathered), rel=1e-7)
    value.backward()
    assert reached(student_leaves) == REACHED["rfc"]

    for classes in ([False, False, False], [True, False, False]):
        gather(keys, torch.tensor([classes] * images))  # no key of some anchor's class
        student_leaves = leaves(regions)
        value = rfc(student_leaves, pseudo)
        value.backward()
        assert value.isfinite() and student_leaves.features.grad.isfinite().all()


@every_loss
def test_gradient_is_the_derivative_and_reaches_the_student_alone(name):
    regions, pseudo = random_case((2, 3, 3, 2, 2, 3), 0)
    assert pseudo.present.any()
    for field in REACHED[name]:
        leaf = getattr(regions, field).clone().requires_grad_()
        torch.autograd.gradcheck(
            lambda value, field=field: LOSSES[name](replace(regions, **{field: value}), pseudo), (leaf,)
        )
    teacher = {field: getattr(pseudo, field).clone().requires_grad_() for field in ("masks", "features", "weights")}
    prediction = {
        field: getattr(pseudo.teacher, field).clone().requires_grad_() for field in ("semantic_map", "features")
    }
    student_leaves = leaves(regions)
    LOSSES[name](student_leaves, replace(pseudo, **teacher, teacher=replace(pseudo.teacher, **prediction))).backward()
    assert reached(student_leaves) == REACHED[name]
    for tensor in (*teacher.values(), *prediction.values()):
        assert tensor.grad is None or tensor.grad.eq(0).all()
    assert not LOSSES[name](regions, pseudo).requires_grad


@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("number", PRECISIONS)
def test_edge_cases_are_finite(case, number):
    dtype, context = precision(number)
    fixed, pseudo = edge_case(case, dtype)
    for name, loss in (LOSSES | MATCHED).items():
        regions = leaves(fixed)
        with context:
            value = loss(regions, pseudo)
        assert value.isfinite() and value.dtype == torch.float32, name
        value.backward()
        found = {field: gradient for field, gradient in gradients(regions).items() if gradient is not None}
        assert set(found) >= REACHED[name]
        assert all(gradient.isfinite().all() for gradient in found.values()), name
        if case in ("no pseudo region", "all pixels unconfident", "no pixel inside"):
            assert not pseudo.present.any()
            if name != "contrast" or case == "no pixel inside":  # it needs no pseudo region
                assert value.item() == 0.0 and not reached(regions), name


@every_loss
@pytest.mark.parametrize("number", PRECISIONS[1:])
@pytest.mark.parametrize("size", [(2, 6, 4, 8, 20, 20), (1, 2, 2, 2, 300, 300)], ids=["small", "large"])
def test_lower_precision_has_the_same_value(name, number, size):
    """Dice over a temperature of 0.1 is sensitive: rounded to bfloat16 it would be wrong by up to 0.04.

    The large map has 90,000 pixels: a sum in float16 would end at 65,504.
    """
    dtype, context = precision(number)
    regions, pseudo = random_case(size, 0, dtype=dtype)
    regions = leaves(regions)
    with context:
        value = LOSSES[name](regions, pseudo)
    value.backward()
    assert value.item() == pytest.approx(LOSSES[name](in_double(regions), in_double(pseudo)).item(), abs=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients(regions).values() if gradient is not None)


@pytest.mark.parametrize("others", [0.0, -8.0])
@pytest.mark.parametrize("number", PRECISIONS)
def test_all_queries_no_object_still_have_a_gradient(others, number):
    """With every query sure of "no object", RCC and SMC still move the classes, and RMC the masks."""
    dtype, context = precision(number)
    regions, pseudo = random_case(SIZES[0], 0, dtype=dtype)
    regions.class_logits[:] = others
    regions.class_logits[:, :, -1] = 8
    for name, field in [("rcc", "class_logits"), ("rmc", "mask_logits"), ("smc", "class_logits")]:
        student_leaves = leaves(regions)
        with context:
            value = LOSSES[name](student_leaves, pseudo)
        value.backward()
        gradient = getattr(student_leaves, field).grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 1e-4, (name, field)
        if name == "rcc":
            assert pseudo.present.any()
            matched = in_order(regions, pseudo).bool()
            assert (gradient[..., :-1][matched] < 0).all(), "the classes of the regions must rise"


def test_perfect_student_has_small_losses():
    """Every query owns one region, predicts its class, and has its mask and the teacher's features.

    RFC cannot fall below log 2 there: two images hold every class, and each key shares its anchor with the other's.
    """
    regions, pseudo = random_case((2, 3, 3, 3, 8, 8), 0, threshold=0.0)
    assert pseudo.present.all()
    class_logits = 20 * torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4)
    features = 5 * torch.einsum("bchw,cd->bdhw", pseudo.masks, torch.eye(3, dtype=torch.float64))
    perfect = Regions(class_logits, 40 * pseudo.masks - 20, features)
    pseudo = replace(pseudo, features=torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    for name, loss in LOSSES.items() - {("contrast", pixel_contrast)}:
        least = math.log(2) if name == "rfc" else 0.0
        assert least - 1e-5 < loss(perfect, pseudo).item() < least + 0.01 < loss(regions, pseudo).item(), name


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    size=st.tuples(*[st.integers(1, 4)] * 4, st.integers(1, 6), st.integers(1, 6)),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    threshold=st.sampled_from([0.0, 0.5, 0.95]),
    seed=st.integers(0, 1000),
)
def test_any_shape_is_finite(size, scale, threshold, seed):
    regions, pseudo = random_case(size, seed, threshold, dtype=torch.float32)
    regions = leaves(Regions(*(getattr(regions, name) * scale for name in FIELDS)))
    losses = {name: loss(regions, pseudo) for name, loss in (LOSSES | MATCHED).items()}
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(regions).values())
    if not pseudo.present.any():
        assert all(loss.item() == 0 for name, loss in losses.items() if name != "contrast")

"""The pixel-level losses of the baselines."""

from __future__ import annotations

import math
from dataclasses import replace

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
    pixel_consistency,
    precision,
    random_case,
    random_regions,
    random_view,
    smc,
)

from rc2l_d2.regions import Regions, TeacherView, pixel_contrastive


def row(features: list, teacher_features: list, probabilities: list, inside: list | None = None):
    """Student features and the teacher's view of one image of one row: lists of one list a channel or class."""
    tensors = [torch.tensor(x, dtype=torch.float64)[None, :, None] for x in (features, teacher_features, probabilities)]
    where = torch.ones(tensors[0][:, 0].shape, dtype=torch.bool) if inside is None else torch.tensor([[inside]])
    return tensors[0], TeacherView(tensors[2], tensors[1], where)


class TestByHand:
    def test_two_positions_of_two_classes(self):
        """Cosine 1 with its own, 0 with the other's, over 0.1: log(1 + exp(-10)) both times."""
        features, view = row([[2.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 5.0]], [[1, 0], [0, 1]])
        assert pixel_contrastive(features, view, None).item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-9)

    def test_a_negative_counts_as_much_as_it_is_of_another_class(self):
        """All features equal, s' = (1, 0) and (0.25, 0.75): the other position weighs 0.75."""
        features, view = row([[1.0, 1.0]], [[1.0, 1.0]], [[1, 0.25], [0, 0.75]])
        assert pixel_contrastive(features, view, None).item() == pytest.approx(math.log(1.75), rel=1e-9)

    def test_positions_of_one_class_do_not_repel(self):
        features, view = row([[1.0, 1.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]], [[1, 1], [0, 0]])
        assert pixel_contrastive(features, view, None).item() == pytest.approx(0, abs=1e-9)

    def test_padding_is_neither_anchor_nor_negative(self):
        features, view = row([[1.0, 1.0, 1.0]], [[1.0, 1.0, -1.0]], [[1, 0, 0], [0, 1, 1]], [True, True, False])
        assert pixel_contrastive(features, view, None).item() == pytest.approx(math.log(2), rel=1e-9)

    def test_consistency_of_a_half(self):
        """s = 0.5 everywhere, three of four positions valid."""
        regions, pseudo = random_case((1, 1, 2, 1, 1, 4), 0)
        regions = replace(regions, class_logits=torch.zeros_like(regions.class_logits))
        valid = torch.tensor([[[True, False, True, True]]])
        masks = torch.tensor([[[[1.0, 0, 0, 1]], [[0.0, 0, 1, 0]]]], dtype=torch.float64)
        pseudo = replace(pseudo, valid=valid, masks=masks)
        assert pixel_consistency(regions, pseudo).item() == pytest.approx(0.75 * math.log(2), abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_values_against_loops(size, temperature):
    for seed in range(2):
        regions, pseudo = random_case(size, seed)
        view = random_view(size, seed)
        student, teacher = arrays(regions), arrays(view)
        value = pixel_contrastive(regions.features, view, None, temperature=temperature)
        expected = reference.pixel_contrastive(
            student["features"], teacher["probabilities"], teacher["features"], teacher["inside"], temperature
        )
        assert value.dtype == torch.float64 and value.item() == pytest.approx(expected, rel=1e-7)
        expected = reference.pixel_consistency(student["class_logits"], student["mask_logits"], arrays(pseudo))
        assert pixel_consistency(regions, pseudo).item() == pytest.approx(expected, rel=1e-7)


def test_consistency_is_the_cross_entropy_of_smc():
    """SMC of one region that student and teacher share has no more than that: its Dice loss is zero."""
    regions, pseudo = random_case((2, 3, 1, 2, 4, 4), 0, threshold=0.0)
    expected = smc(regions, pseudo).item()
    assert pixel_consistency(regions, pseudo).item() == pytest.approx(expected, abs=1e-9)
    regions, pseudo = random_case(SIZES[0], 0)
    assert 0 < pixel_consistency(regions, pseudo) < smc(regions, pseudo)


@pytest.mark.parametrize("samples", [1, 5, 12])
def test_samples_are_the_positions_inside_with_the_smallest_numbers(samples):
    features, view = random_regions(SIZES[0], 0).features, random_view(SIZES[0], 0)
    draw = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    chosen = torch.zeros(2, 20, dtype=torch.bool)
    for image in range(2):
        inside = [place for place in range(20) if view.inside[image].flatten()[place]]
        assert len(inside) >= 12
        chosen[image, sorted(inside, key=lambda place: draw[image, place])[:samples]] = True
    of_chosen = pixel_contrastive(features, replace(view, inside=chosen.view(2, 4, 5)), None)
    assert pixel_contrastive(features, view, draw, samples).item() == pytest.approx(of_chosen.item(), rel=1e-9)


@pytest.mark.parametrize("samples", [0, 20, 21, 1000])
def test_as_many_samples_as_positions_are_all_of_them(samples):
    features, view = random_regions(SIZES[0], 0).features, random_view(SIZES[0], 0)
    everything = pixel_contrastive(features, view, None)
    assert torch.equal(pixel_contrastive(features, view, torch.rand(2, 20), samples), everything)


def test_fewer_positions_inside_than_samples():
    features, view = random_regions(SIZES[0], 0).features, random_view(SIZES[0], 0)
    inside = torch.zeros_like(view.inside)
    inside[0, 1, 2] = inside[1, :2, :3] = True
    view = replace(view, inside=inside)
    everything = pixel_contrastive(features, view, None)
    assert pixel_contrastive(features, view, torch.rand(2, 20), 10).item() == pytest.approx(everything.item(), rel=1e-9)


def test_the_student_alone_gets_gradients_and_they_are_the_derivative():
    size = (2, 3, 3, 2, 2, 3)
    regions, pseudo = random_case(size, 0)
    view = random_view(size, 0)
    features = regions.features.clone().requires_grad_()
    draw = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    for samples in (0, 4):
        torch.autograd.gradcheck(lambda x, samples=samples: pixel_contrastive(x, view, draw, samples), (features,))
    teacher = {name: getattr(view, name).clone().requires_grad_() for name in ("probabilities", "features")}
    pixel_contrastive(features, replace(view, **teacher), draw, 4).backward()
    assert features.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in teacher.values())

    for field in ("class_logits", "mask_logits"):
        leaf = getattr(regions, field).clone().requires_grad_()
        torch.autograd.gradcheck(
            lambda value, field=field: pixel_consistency(replace(regions, **{field: value}), pseudo), (leaf,)
        )
    masks = pseudo.masks.clone().requires_grad_()
    student = leaves(regions)
    pixel_consistency(student, replace(pseudo, masks=masks)).backward()
    assert masks.grad is None
    reached = {name for name, gradient in gradients(student).items() if gradient is not None}
    assert reached == {"class_logits", "mask_logits"}


@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("number", PRECISIONS)
def test_consistency_in_edge_cases_is_finite(case, number):
    dtype, context = precision(number)
    regions, pseudo = edge_case(case, dtype)
    regions = leaves(regions)
    with context:
        value = pixel_consistency(regions, pseudo)
    value.backward()
    assert value.isfinite() and value.dtype == torch.float32
    assert all(g.isfinite().all() for g in (regions.class_logits.grad, regions.mask_logits.grad))
    if not pseudo.valid.any():
        assert value.item() == 0 and regions.mask_logits.grad.eq(0).all()


@pytest.mark.parametrize(
    "case",
    ["ordinary", "nothing inside", "nothing inside one image", "zero features", "zero teacher features", "one class",
     "one position", "opposite features", "equal features", "large features"],
)  # fmt: skip
@pytest.mark.parametrize("samples", [0, 4])
@pytest.mark.parametrize("number", PRECISIONS)
def test_contrast_in_edge_cases_is_finite(case, samples, number):
    dtype, context = precision(number)
    size = (2, 1, 1 if case == "one class" else 3, 4, *((1, 1) if case == "one position" else (4, 5)))
    view, features = random_view(size, 0, dtype=dtype), random_regions(size, 0, dtype).features
    if case == "nothing inside":
        view = replace(view, inside=torch.zeros_like(view.inside))
    elif case == "nothing inside one image":
        view.inside[0] = False
    elif case == "one position":
        view = replace(view, inside=torch.ones_like(view.inside))
    elif case == "zero features":
        features[:] = 0
    elif case == "zero teacher features":
        view.features[:] = 0
    elif case == "opposite features":
        features = -view.features
    elif case == "equal features":
        features[:] = 1
        view.features[:] = 1
    elif case == "large features":
        features = 1e4 * features
    features = features.clone().requires_grad_()
    draw = torch.rand(2, size[4] * size[5])
    with context:
        value = pixel_contrastive(features, view, draw, samples)
    value.backward()
    assert value.isfinite() and value.dtype == torch.float32 and value.item() >= -1e-6
    assert features.grad.isfinite().all()
    if case in ("nothing inside", "one class"):
        assert value.item() == pytest.approx(0, abs=1e-3 if case == "one class" else 0)


@pytest.mark.parametrize("number", PRECISIONS)
def test_lower_precision_has_the_same_value(number):
    dtype, context = precision(number)
    size = (2, 6, 4, 8, 10, 10)
    regions, pseudo = random_case(size, 0, dtype=dtype)
    view = random_view(size, 0, dtype=dtype)
    doubled = Regions(*(getattr(regions, name).double() for name in gradients(regions)))
    double_view = TeacherView(view.probabilities.double(), view.features.double(), view.inside)
    with context:
        contrast, consistency = pixel_contrastive(regions.features, view, None), pixel_consistency(regions, pseudo)
    assert contrast.item() == pytest.approx(pixel_contrastive(doubled.features, double_view, None).item(), abs=0.01)
    assert consistency.item() == pytest.approx(pixel_consistency(doubled, pseudo).item(), abs=0.01)

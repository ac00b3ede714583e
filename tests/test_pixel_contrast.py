"""The pixel-level contrastive loss of the baseline PixelContrast; test_losses.py compares it with loops."""

import math
from dataclasses import replace

import pytest
import torch
from method_cases import PRECISIONS, SIZES, precision, random_prediction, random_regions

from rc2l_d2.regions import pixel_contrastive, teacher_prediction

# Random numbers where all pixels are contrasted.
UNUSED = torch.empty(0)


def row(features: list, teacher_features: list, semantic_map: list, inside: list | None = None):
    """Student features and the teacher's prediction for one image of one row; one list for each channel or class."""
    tensors = [torch.tensor(x, dtype=torch.float64)[None, :, None] for x in (features, teacher_features, semantic_map)]
    where = torch.ones(tensors[0][:, 0].shape, dtype=torch.bool) if inside is None else torch.tensor([[inside]])
    return tensors[0], teacher_prediction(tensors[2], tensors[1], where)


@pytest.mark.parametrize("case, expected", [
    # Two pixels of two classes. Cosine 1 with its own, 0 with the other's, over 0.1: log(1 + exp(-10)) both times.
    (([[2.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 5.0]], [[1, 0], [0, 1]]), math.log1p(math.exp(-10))),
    # All features equal, s' = (1, 0) and (0.25, 0.75): the other pixel weighs 0.75.
    (([[1.0, 1.0]], [[1.0, 1.0]], [[1, 0.25], [0, 0.75]]), math.log(1.75)),
    # Pixels of one class do not repel.
    (([[1.0, 1.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]], [[1, 1], [0, 0]]), 0),
    # Padding is neither anchor nor negative.
    (([[1.0, 1.0, 1.0]], [[1.0, 1.0, -1.0]], [[1, 0, 0], [0, 1, 1]], [True, True, False]), math.log(2)),
], ids=["two classes", "a quarter of the class", "one class", "padding"])  # fmt: skip
def test_by_hand(case, expected):
    assert pixel_contrastive(*row(*case), UNUSED).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_mean_is_over_the_anchors_of_all_ranks(monkeypatch):
    given, of_all_ranks = ([[1.0, 1.0]], [[1.0, 1.0]], [[1, 0.25], [0, 0.75]]), 10
    monkeypatch.setattr("rc2l_d2.regions.ranks.mean_over_ranks", lambda count: 0 * count + of_all_ranks / 2)
    # Two anchors of ten, and two ranks, whose gradients are averaged.
    expected = math.log(1.75) * 2 / (of_all_ranks / 2)
    assert pixel_contrastive(*row(*given), UNUSED).item() == pytest.approx(expected, rel=1e-9)


def test_what_weighs_nothing_changes_nothing_at_a_low_temperature():
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1, 0, 0], [0, 1, 1]], [True, True, False]
    losses = [
        pixel_contrastive(*row(rows[0], [[-1.0, 0.0, padding], [0.0, 1.0, 0.0]], *rows[1:]), UNUSED, temperature=0.01)
        for padding in (1.0, -1.0)
    ]
    assert losses[0].isfinite() and torch.equal(*losses)


@pytest.mark.parametrize("samples", [1, 5, 12])
def test_samples_are_the_pixels_inside_with_the_smallest_numbers(samples):
    features, teacher = random_regions(SIZES[0], 0).features, random_prediction(SIZES[0], 0)
    uniform = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    sampled = torch.zeros(2, 20, dtype=torch.bool)
    for image in range(2):
        inside = [place for place in range(20) if teacher.inside[image].flatten()[place]]
        assert len(inside) >= 12
        sampled[image, sorted(inside, key=lambda place: uniform[image, place])[:samples]] = True
    expected = pixel_contrastive(features, replace(teacher, inside=sampled.view(2, 4, 5)), UNUSED)
    assert pixel_contrastive(features, teacher, uniform, samples).item() == pytest.approx(expected.item(), rel=1e-9)


def test_as_many_samples_as_pixels_are_all_of_them():
    features, teacher = random_regions(SIZES[0], 0).features, random_prediction(SIZES[0], 0)
    everything = pixel_contrastive(features, teacher, UNUSED)
    for samples in (0, 20, 21, 1000):
        assert torch.equal(pixel_contrastive(features, teacher, torch.rand(2, 20), samples), everything)
    inside = torch.zeros_like(teacher.inside)
    inside[0, 1, 2] = inside[1, :2, :3] = True
    few = replace(teacher, inside=inside)  # fewer pixels inside than samples
    expected = pixel_contrastive(features, few, UNUSED).item()
    assert pixel_contrastive(features, few, torch.rand(2, 20), 10).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_of_samples_is_the_derivative():
    size = (2, 3, 3, 2, 2, 3)
    features, teacher = random_regions(size, 0).features.requires_grad_(), random_prediction(size, 0)
    uniform = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    torch.autograd.gradcheck(lambda x: pixel_contrastive(x, teacher, uniform, 4), (features,))


@pytest.mark.parametrize("case", ["nothing inside one image", "opposite features", "equal features", "large features"])
@pytest.mark.parametrize("number", PRECISIONS)
def test_edge_cases_are_finite(case, number):
    """test_losses.py has more."""
    dtype, context = precision(number)
    size = (2, 1, 3, 4, 4, 5)
    teacher, features = random_prediction(size, 0, dtype=dtype), random_regions(size, 0, dtype).features
    if case == "nothing inside one image":
        teacher.inside[0] = False
    elif case == "opposite features":
        features = -teacher.features
    elif case == "equal features":
        features[:] = teacher.features[:] = 1
    else:
        features = 1e4 * features
    for samples in (0, 4):
        leaf = features.clone().requires_grad_()
        with context:
            value = pixel_contrastive(leaf, teacher, torch.rand(2, 20), samples)
        value.backward()
        assert value.isfinite() and value.dtype == torch.float32 and value.item() >= -1e-6
        assert leaf.grad.isfinite().all()

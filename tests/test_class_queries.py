"""The class-query predictor: competing masks, the class of each region, and its place in the model."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from rc2l_d2.errors import InputError
from rc2l_d2.host import ShapeSpec
from rc2l_d2.modeling.class_queries import ClassQueryPredictor
from rc2l_d2.regions import competing, semantic_probabilities

SHAPES = {
    "res5": ShapeSpec(channels=6, stride=32), "res2": ShapeSpec(channels=3, stride=4),
    "res4": ShapeSpec(channels=5, stride=16),
}  # fmt: skip
CLASSES, DIM = 4, 8


def predictor() -> ClassQueryPredictor:
    torch.manual_seed(0)
    return ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=1.5)


def inputs() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = {
        name: torch.randn(2, shape.channels, 64 // shape.stride, 96 // shape.stride, generator=generator) * 3 + 1
        for name, shape in SHAPES.items()
    }
    return maps, torch.randn(2, DIM, 16, 24, generator=generator)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_competing_masks_are_a_softmax_over_queries(scale):
    logits = scale * torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[0, :2, 0] = logits[0, :, 0].amax(dim=0) + 1  # the two largest are equal
    result = competing(logits)
    np.testing.assert_allclose(expit(result.numpy()), softmax(logits.numpy(), axis=1), rtol=1e-12)
    rest = [[j for j in range(5) if j != i] for i in range(5)]
    expected = torch.stack([logits[:, i] - logits[:, rest[i]].logsumexp(dim=1) for i in range(5)], dim=1)
    torch.testing.assert_close(result, expected)


def test_competing_masks_have_the_gradient_of_log_softmax():
    logits = 40 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    logits[0, :2, 0] = 70.0
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    torch.nn.functional.logsigmoid(competing(a)).square().sum().backward()
    b.log_softmax(dim=1).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-3)
    small = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(competing, small)


def test_one_query_covers_the_image_and_half_precision_is_not_used():
    assert (competing(torch.zeros(1, 1, 2, 2)).sigmoid() == 1).all()
    assert competing(torch.randn(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_masks_and_classes_equal_numpy():
    model, (maps, features) = predictor().eval(), inputs()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        ((class_logits, mask_logits),), _ = model(maps, features)
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    pixels = np.einsum("kc,bchw->bkhw", state["mask_embed.weight"], features.numpy())
    masks = softmax(pixels + state["mask_embed.bias"][:, None, None], axis=1)
    np.testing.assert_allclose(expit(mask_logits.numpy()), masks, rtol=1e-4)
    # Means of the two coarsest maps in each mask, the finer map first; the map of stride 4 is not used.
    pooled = []
    for name in ("res4", "res5"):
        size = maps[name].shape[-2:]
        steps = masks.shape[2] // size[0]
        cells = masks.reshape(2, CLASSES, size[0], steps, size[1], steps).mean(axis=(3, 5))
        sums = np.einsum("bkhw,bchw->bkc", cells, maps[name].numpy())
        pooled.append(sums / cells.sum(axis=(2, 3))[..., None])
    pooled = np.concatenate(pooled, axis=2)
    pooled = (pooled - pooled.mean(axis=2, keepdims=True)) / np.sqrt(pooled.var(axis=2, keepdims=True) + 1e-5)
    logits = pooled @ state["class_probe.weight"].T + state["class_probe.bias"]
    classes = softmax(logits + 1.5 * np.eye(CLASSES), axis=-1)
    probability = softmax(class_logits.numpy(), axis=-1)
    np.testing.assert_allclose(probability[..., :-1], classes, rtol=1e-4)
    assert (probability[..., -1] == 0).all()
    # The semantic map: every mask counts for all classes of its region. It is a probability without normalising.
    expected = np.einsum("bkc,bkhw->bchw", classes, masks)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    result = semantic_probabilities(class_logits, mask_logits)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_region_features_are_dropped_in_training_alone():
    torch.manual_seed(0)
    model = ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=0.0, class_dropout=0.25)
    seen, given = [], inputs()
    model.class_probe.register_forward_hook(lambda _, features, __: seen.append(features[0]))
    for _ in range(200):
        model(*given)
    model.eval()(*given)
    *trained, plain = seen
    trained = torch.stack(trained)
    assert ((trained == 0) | ((trained - plain / 0.75).abs() < 1e-5)).all()
    assert (trained == 0).float().mean().item() == pytest.approx(0.25, abs=0.01) and (plain != 0).all()


def test_before_training_the_classes_are_the_prior():
    ((class_logits, _),), _ = predictor()(*inputs())
    torch.testing.assert_close(class_logits[..., :-1], (1.5 * torch.eye(CLASSES)).expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_empty_mask_has_a_finite_class(dtype):
    model, (maps, features) = predictor(), inputs()
    with torch.no_grad():
        model.mask_embed.bias[2] = -1e4
    torch.nn.init.normal_(model.class_probe.weight)
    with torch.autocast("cpu", dtype=dtype):
        ((class_logits, mask_logits),), _ = model({n: x.to(dtype) for n, x in maps.items()}, features.to(dtype))
    assert (mask_logits[:, 2].sigmoid() == 0).all() and class_logits.isfinite().all()


def test_maps_need_not_divide_the_mask_grid():
    """As with a stride of 14: nine mask pixels beside maps of 3 and 2, whose pixels cover 3 and 4.5 of them."""
    model = predictor()
    torch.nn.init.normal_(model.class_probe.weight)
    generator = torch.Generator().manual_seed(3)
    maps = {
        name: torch.randn(1, SHAPES[name].channels, n, n, generator=generator) for name, n in (("res4", 3), ("res5", 2))
    }
    ((class_logits, mask_logits),), _ = model(maps, torch.randn(1, DIM, 9, 9, generator=generator))
    masks = mask_logits.sigmoid()[0].detach()
    rows = {3: [(0, 3), (3, 6), (6, 9)], 2: [(0, 5), (4, 9)]}
    pooled = []
    for x in maps.values():
        cells = [(i, j, a, b) for i, a in enumerate(rows[x.shape[-1]]) for j, b in enumerate(rows[x.shape[-1]])]
        weight = [masks[:, a[0] : a[1], b[0] : b[1]].mean(dim=(1, 2)) for _, _, a, b in cells]
        sums = sum(w[:, None] * x[0, :, i, j] for w, (i, j, *_) in zip(weight, cells, strict=True))
        pooled.append(sums / sum(weight)[:, None])
    expected = model.class_probe(model.norm(torch.cat(pooled, dim=1))) + 1.5 * torch.eye(CLASSES)
    torch.testing.assert_close(class_logits[0, :, :-1], expected, rtol=1e-4, atol=1e-5)


def test_classes_train_neither_masks_nor_backbone():
    model, (maps, features) = predictor(), inputs()
    torch.nn.init.normal_(model.class_probe.weight)
    leaves = [x.requires_grad_() for x in (*maps.values(), features)]
    ((class_logits, _),), _ = model(maps, features)
    class_logits[..., 0].sum().backward()
    assert all(leaf.grad is None for leaf in leaves) and model.mask_embed.weight.grad is None
    assert model.class_probe.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("images", [1, 2])
def test_every_parameter_gets_a_gradient_in_bfloat16(images):
    model, (maps, features) = predictor().train(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((class_logits, mask_logits),), _ = model({n: x[:images] for n, x in maps.items()}, features[:images])
    assert mask_logits.dtype == torch.float32
    generator = torch.Generator().manual_seed(2)
    own = class_logits.float().softmax(dim=-1)[..., :-1]
    loss = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (own, mask_logits))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_of_a_model_with_a_pyramid_is_trained(make_model):
    """tests/test_regions_compile.py shows it for the other decoder."""
    model = make_model("RC2L", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPN").train()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    losses = model([{"image": image, "sem_seg": image[0] % 8} for image in images])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("key, value", [("PIXEL_DECODER_NAME", "BasePixelDecoder"), ("CONVS_DIM", "40")])
def test_impossible_decoders_are_refused_with_their_key(make_model, key, value):
    with pytest.raises(InputError, match=f"MODEL.SEM_SEG_HEAD.{key}"):
        make_model("RC2L", f"MODEL.SEM_SEG_HEAD.{key}", value)

"""The transformer decoder: position embedding, norms, auxiliary layers, independence of images and queries."""

import math

import pytest
import torch

from rc2l_d2.errors import InputError
from rc2l_d2.modeling.transformer_decoder import TransformerPredictor, sine_position_embedding


def predictor(mask_dim: int = 8, **changes) -> TransformerPredictor:
    options = dict(
        num_classes=3, num_queries=5, hidden_dim=16, heads=4, feedforward_dim=32, layers=3, dropout=0.0,
        pre_norm=False, deep_supervision=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return TransformerPredictor("res5", 12, mask_dim, **options | changes)


def inputs() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = {"res5": torch.randn(2, 12, 3, 4, generator=generator)}
    return maps, torch.randn(2, 8, 6, 8, generator=generator)


def test_position_embedding_equals_values_by_hand():
    embedding = sine_position_embedding(2, 4, 8)
    assert embedding.shape == (8, 2, 4)
    # y = 1 of 2 is pi, x = 3 of 4 is 3 pi / 2; four channels each, frequencies 1 and 1/100.
    y, x = math.pi, 1.5 * math.pi
    expected = [f(v * w) for v in (y, x) for w in (1, 0.01) for f in (math.sin, math.cos)]
    torch.testing.assert_close(embedding[:, 0, 2], torch.tensor(expected), atol=1e-5, rtol=0)


def test_every_layer_predicts_in_training_and_the_last_in_evaluation():
    last = []
    for pre_norm in (False, True):
        model = predictor(pre_norm=pre_norm)
        trained = model.train()(*inputs())[0]
        evaluated = model.eval()(*inputs())[0]
        assert len(trained) == 3 and len(evaluated) == 1
        for classes, masks in trained:
            assert classes.shape == (2, 5, 4) and masks.shape == (2, 5, 6, 8)
        torch.testing.assert_close(evaluated[0], trained[-1])
        assert not torch.allclose(trained[0][0], trained[-1][0])
        last.append(evaluated[0][0])
    assert not torch.allclose(*last), "pre-norm differs from post-norm"
    assert len(predictor(deep_supervision=False).train()(*inputs())[0]) == 1


def test_images_and_queries_are_independent():
    model = predictor().eval()
    maps, features = inputs()
    before = model(maps, features)[0][0]
    alone = model({"res5": maps["res5"][1:]}, features[1:])[0][0]
    torch.testing.assert_close((before[0][1:], before[1][1:]), alone)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        model.query_embed.weight.copy_(model.query_embed.weight[order])
    permuted = model(maps, features)[0][0]
    torch.testing.assert_close(permuted, tuple(x[:, order] for x in before))


def test_equal_widths_need_no_projection_and_masks_follow_mask_dim():
    model = predictor(mask_dim=4, hidden_dim=12, heads=3)
    assert not any(name.startswith("input_proj") for name in model.state_dict())
    maps, _ = inputs()
    assert model(maps, torch.randn(2, 4, 6, 8))[0][-1][1].shape == (2, 5, 6, 8)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_parameter_gets_a_gradient_in_bfloat16(pre_norm):
    model = predictor(pre_norm=pre_norm).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers, _ = model(*inputs())
    sum(classes.float().square().sum() + masks.float().square().sum() for classes, masks in layers).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # The first state is all zeros: post-norm's first self-attention mixes equal values, pre-norm's norm scales 0.
        if name not in (
            "transformer.decoder.layers.0.self_attn.in_proj_weight",
            "transformer.decoder.layers.0.norm1.weight",
        ):
            assert parameter.grad.any(), name


@pytest.mark.parametrize("changes", [{"hidden_dim": 18, "heads": 3}, {"heads": 3}, {"layers": 0}, {"num_queries": 0}])
def test_impossible_sizes_are_refused_with_their_key(changes):
    with pytest.raises(InputError, match="MODEL.MASK_FORMER"):
        predictor(**changes)


@pytest.mark.parametrize("supervised", [0, 1, None])
def test_earlier_layers_predict_for_the_supervised_images_alone(supervised):
    model = predictor().train()
    maps, pixel_features = inputs()
    everything, _ = model(maps, pixel_features)
    expected = [tuple(x[:supervised] for x in layer) for layer in everything[:-1]]
    torch.testing.assert_close(model(maps, pixel_features, supervised)[0], [*expected, everything[-1]])

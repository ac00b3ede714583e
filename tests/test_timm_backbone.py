"""Backbones of timm: the maps are timm's own, weights load whole or are refused, layers freeze and decay."""

from __future__ import annotations

import pytest
import torch
from timm_import import timm
from torch import nn

from rc2l_d2.engine import build_optimizer, load_config
from rc2l_d2.engine.setup import build_model_or_explain
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_backbone
from rc2l_d2.modeling.backbones import preprocessing_of
from rc2l_d2.modeling.backbones.simple_pyramid import SimpleFeaturePyramid

TINY_CNN, TINY_VIT = "test_efficientnet", "test_vit2"


def backbone(name: str, *options: str) -> nn.Module:
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32")
    keys += ("MODEL.META_ARCHITECTURE", "RegionSegmentor")
    torch.manual_seed(0)
    return build_backbone(load_config("", [*keys, *options]))


@pytest.mark.parametrize("name", [TINY_CNN, "resnet18", "convnext_atto"])
def test_maps_of_convolutional_models_are_timms(name):
    ours = backbone(name).eval()
    plain = timm.create_model(name, features_only=True)
    plain.load_state_dict(ours.body.state_dict())
    image = torch.randn(1, 3, 64, 96)
    expected = {info["reduction"]: x for info, x in zip(plain.feature_info.info, plain.eval()(image), strict=True)}
    found = ours(image)
    assert list(found) == list(ours.output_shape()) == ["res2", "res3", "res4", "res5"]
    for level, shape in ours.output_shape().items():
        torch.testing.assert_close(found[level], expected[shape.stride], rtol=0, atol=1e-6)
        assert found[level].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", TINY_VIT]
)
def test_maps_of_plain_vits_are_timms_at_any_size(name):
    ours = backbone(name).eval()
    plain = timm.create_model(name, dynamic_img_size=True)
    ours.load_pretrained(plain.state_dict(), "a file")
    size = ours.size_divisibility * 3, ours.size_divisibility * 4
    image = torch.randn(1, 3, *size)
    last = [len(plain.blocks) - 1]
    expected = plain.eval().forward_intermediates(image, indices=last, norm=True, intermediates_only=True)[0]
    found = ours.body.forward_intermediates(image, indices=last, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    shapes = {level: tuple(x.shape[1:]) for level, x in ours(image).items()}
    assert shapes == {
        f"res{level}": (32, *(-(-length // stride) for length in size))
        for level, stride in zip((2, 3, 4, 5), (4, 8, 16, 32), strict=True)
    }


def test_the_pyramid_keeps_constant_maps_in_place():
    """A step in the patches is a step at the same place of the image in every map, resized or not."""
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(8, 4).eval()
    left, right = torch.randn(2, 1, 8, 1, 1)
    x = torch.cat([left.expand(1, 8, 16, 8), right.expand(1, 8, 16, 8)], dim=3)
    for patch in (14, 16):
        for stride, y in zip((4, 8, 16), pyramid(x, (16 * patch, 16 * patch)), strict=False):
            step = (y[0, :, y.shape[2] // 2, 1:] - y[0, :, y.shape[2] // 2, :-1]).abs().sum(0)
            border = len(step) // 4  # zero padding has steps of its own there
            place = (border + step[border:-border].argmax() + 1) * stride
            assert abs(place - 8 * patch) <= 2 * stride, (patch, stride)


def test_stages_freeze_from_the_input_on():
    frozen = backbone(TINY_VIT, "MODEL.TIMM.FREEZE_STAGES", "2")
    trained = {name for name, p in frozen.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("body.patch_embed", "body.pos_embed", "body.blocks.0.")) for name in trained)
    assert any(name.startswith("body.blocks.1.") for name in trained) and "pyramid.levels.2.0.weight" in trained

    resnet = backbone("resnet18", "MODEL.TIMM.FREEZE_STAGES", "2").train()
    trained = {name.split(".")[1] for name, p in resnet.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert not resnet.body.bn1.training and not resnet.body.layer1[0].bn1.training
    assert resnet.body.layer2[0].bn1.training
    assert not backbone("resnet18", "MODEL.TIMM.NORM_EVAL", "True").train().body.layer4[0].bn1.training


def test_the_learning_rate_decays_by_layer():
    options = (
        "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", TINY_VIT, "MODEL.TIMM.LAYER_DECAY", "0.5",
        "SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.2", "SOLVER.REFERENCE_IMS_PER_BATCH", "0",
        "MODEL.META_ARCHITECTURE", "RegionSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2','res3','res4','res5')",
    )  # fmt: skip
    cfg = load_config("", options)
    model = build_model_or_explain(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    blocks = len(model.backbone.body.blocks)
    assert found["backbone.body.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.2 * 0.5 ** (blocks + 1))
    assert found["backbone.body.blocks.0.norm1.weight"] == pytest.approx(0.1 * 0.2 * 0.5**blocks)
    assert found["backbone.body.norm.weight"] == pytest.approx(0.1 * 0.2)
    assert found["backbone.pyramid.levels.2.0.weight"] == found["sem_seg_head.predictor.query_embed.weight"] == 0.1


def test_images_are_padded_to_whole_patches():
    options = (
        "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "vit_small_patch14_dinov2",
        "MODEL.META_ARCHITECTURE", "RegionSegmentor", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2','res3','res4','res5')",
    )  # fmt: skip
    model = build_model_or_explain(load_config("", options))
    assert model.preprocess([torch.zeros(3, 60, 50)]).tensor.shape == (1, 3, 84, 56)


def test_preprocessing_is_the_backbones_unless_it_is_set():
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "tf_efficientnet_lite0")
    keys += ("MODEL.META_ARCHITECTURE", "RegionSegmentor")
    cfg = load_config("", keys)
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) == ([127.5] * 3, [127.5] * 3, "RGB")
    cfg = load_config("", [*keys, "MODEL.PIXEL_STD", "(2.0, 2.0, 2.0)"])
    assert cfg.MODEL.PIXEL_STD == [2.0, 2.0, 2.0] and cfg.INPUT.FORMAT == "BGR"
    assert preprocessing_of("vit_small_patch14_dinov2")[0] == [123.675, 116.28, 103.53]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_timms_names_load_whole(prefix, logged):
    plain = timm.create_model(TINY_CNN)
    ours = backbone(TINY_CNN)
    ours.load_pretrained({prefix + name: value for name, value in plain.state_dict().items()}, "weights.pth")
    theirs = plain.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.body.state_dict().items())
    assert any("weights.pth" in message and "all of its" in message for _, message in logged)


def test_weights_that_do_not_fit_are_refused():
    ours, other = backbone(TINY_CNN), timm.create_model("resnet18").state_dict()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    half = dict(list(timm.create_model(TINY_CNN).state_dict().items())[:40])
    wrong_shape = timm.create_model(TINY_CNN).state_dict()
    name = next(name for name in wrong_shape if name.startswith("blocks") and name.endswith("conv.weight"))
    wrong_shape[name] = wrong_shape[name][:1]
    for state in (other, half, {"a": torch.zeros(1)}, wrong_shape):
        with pytest.raises(InputError, match="file.pth does not fit MODEL.TIMM.NAME 'test_efficientnet'") as error:
            ours.load_pretrained(state, "file.pth")
        assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_unknown_names_name_near_ones():
    with pytest.raises(InputError, match="'resnet1b'.*near ones are .*resnet1"):
        backbone("resnet1b")
    with pytest.raises(InputError, match="'mixer_s16_224', which timm cannot build"):
        backbone("mixer_s16_224")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network\nmore")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(InputError, match="MODEL.TIMM.PRETRAINED is True.*no network.*MODEL.TIMM.CHECKPOINT"):
        backbone("tf_efficientnet_lite0").load_pretrained()


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for value in ("False", "True"):
        model = backbone(TINY_VIT, "MODEL.TIMM.GRAD_CHECKPOINTING", value).train()
        model(torch.full((1, 3, 64, 64), 0.5))["res4"].square().sum().backward()
        gradients.append(model.body.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_channels_last_gives_the_same_maps():
    image = torch.randn(2, 3, 64, 64)
    plain, last = (backbone(TINY_CNN, "MODEL.TIMM.CHANNELS_LAST", value).eval() for value in ("False", "True"))
    for level, value in plain(image).items():
        torch.testing.assert_close(last(image)[level], value, rtol=1e-4, atol=1e-5)

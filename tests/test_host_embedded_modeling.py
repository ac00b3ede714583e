"""The embedded host's layers, ResNets, image lists, catalogs and overlays."""

import numpy as np
import pytest
import torch
from torch import nn

from rc2l_d2.host.embedded.catalog import DatasetCatalog, Metadata, MetadataCatalog
from rc2l_d2.host.embedded.config import get_cfg
from rc2l_d2.host.embedded.image_list import ImageList
from rc2l_d2.host.embedded.layers import Conv2d, FrozenBatchNorm2d, get_norm
from rc2l_d2.host.embedded.registry import build_backbone
from rc2l_d2.host.embedded.visualizer import Visualizer

STAGES = ["res2", "res3", "res4", "res5"]


def resnet_config(depth: int = 18, norm: str = "BN", freeze_at: int = 0, **keys):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    for key, value in keys.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


# --- layers ----------------------------------------------------------------------------------------------------------


def randomise_(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean"):
            getattr(norm, name).normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return norm


def test_conv_applies_norm_then_activation():
    conv = Conv2d(3, 4, 3, padding=1, bias=False, norm=randomise_(nn.BatchNorm2d(4)), activation=torch.sigmoid).eval()
    assert list(conv.state_dict())[:2] == ["weight", "norm.weight"]
    x = torch.randn(2, 3, 5, 6)
    expected = torch.sigmoid(conv.norm(nn.functional.conv2d(x, conv.weight, padding=1)))
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_frozen_bn_equals_bn_in_eval_mode(requires_grad):
    torch.manual_seed(0)
    norm = randomise_(nn.BatchNorm2d(5)).eval()
    frozen = get_norm("FrozenBN", 5)
    assert frozen.load_state_dict(norm.state_dict()).missing_keys == []  # BN's counter is accepted
    x = torch.randn(2, 5, 4, 3, requires_grad=requires_grad)
    torch.testing.assert_close(frozen.train()(x), norm(x))
    assert list(frozen.parameters()) == []
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_frozen_bn_starts_as_the_identity_and_loads_folded_checkpoints():
    frozen = FrozenBatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(frozen(x), x)
    frozen.load_state_dict({"weight": torch.full((3,), 2.0), "bias": torch.ones(3)})
    torch.testing.assert_close(frozen(x), 2 * x + 1, rtol=1e-4, atol=1e-4)


# --- ResNet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "channels", "parameters"),  # torchvision's counts without the classifier
    [(18, 64, 11_176_512), (34, 64, 21_284_672), (50, 256, 23_508_032), (101, 256, 42_500_160)],
)
def test_resnet_shapes(depth, channels, parameters):
    backbone = build_backbone(resnet_config(depth)).eval()
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    shapes = backbone.output_shape()
    assert {name: (s.channels, s.stride) for name, s in shapes.items()} == {
        name: (channels * 2**i, 4 * 2**i) for i, name in enumerate(STAGES)
    }
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 64, 96))
    assert list(outputs) == STAGES and all(output.isfinite().all() for output in outputs.values())
    for name, output in outputs.items():
        stride = shapes[name].stride
        assert output.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)


def test_resnet_keeps_only_the_needed_stages():
    backbone = build_backbone(resnet_config(18, OUT_FEATURES=["stem", "res3"]))
    assert [name for name, _ in backbone.named_children()] == ["stem", "res2", "res3"]
    assert list(backbone(torch.randn(1, 3, 32, 32))) == ["stem", "res3"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("OUT_FEATURES", ["res6"], r"MODEL\.RESNETS\.OUT_FEATURES"),
        ("RES2_OUT_CHANNELS", 256, r"MODEL\.RESNETS\.RES2_OUT_CHANNELS"),
        ("DEPTH", 49, r"MODEL\.RESNETS\.DEPTH"), ("NORM", "Frozen_BN", "There is no norm 'Frozen_BN'"),
    ],
)  # fmt: skip
def test_bad_resnet_options(key, value, message):
    with pytest.raises((AssertionError, KeyError), match=message):
        build_backbone(resnet_config(18, **{key: value}))


def test_resnet_options():
    first = build_backbone(resnet_config(50, NORM="GN", STRIDE_IN_1X1=False)).res3[0]
    assert first.conv1.norm.num_groups == 32
    assert first.conv1.stride == (1, 1) and first.conv2.stride == (2, 2) and first.conv1.out_channels == 128
    torch.manual_seed(0)
    backbone = build_backbone(resnet_config(50))
    assert backbone.res3[0].conv1.stride == (2, 2)
    # Kaiming normal by fan-out.
    assert backbone.res5[1].conv2.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_freeze():
    backbone = build_backbone(resnet_config(18, "BN", freeze_at=2))
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    assert isinstance(backbone.res2[0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(backbone.res3[0].conv1.norm, nn.BatchNorm2d)
    before = backbone.stem.conv1.norm.running_mean.clone()
    backbone.train()(torch.randn(2, 3, 32, 32))["res5"].sum().backward()
    assert torch.equal(backbone.stem.conv1.norm.running_mean, before)
    unfrozen = build_backbone(resnet_config(18, "BN"))
    backbone.load_state_dict(unfrozen.state_dict())  # the names are the same
    unfrozen.load_state_dict(backbone.state_dict())


# --- image lists and catalogs ----------------------------------------------------------------------------------------


def test_image_list_pads_right_and_bottom():
    small, large = torch.ones(3, 5, 9), torch.full((3, 8, 4), 2.0)
    images = ImageList.from_tensors([small, large], size_divisibility=4, pad_value=-1.0)
    assert images.tensor.shape == (2, 3, 8, 12) and images.image_sizes == [(5, 9), (8, 4)]
    assert torch.equal(images.tensor[0, :, :5, :9], small) and torch.equal(images.tensor[1, :, :, :4], large)
    assert (images.tensor[0, :, 5:] == -1).all() and (images.tensor[0, :, :, 9:] == -1).all()
    labels = ImageList.from_tensors([torch.zeros(3, 4, dtype=torch.uint8)], pad_value=255)
    assert labels.tensor.shape == (1, 3, 4) and labels.tensor.dtype == torch.uint8
    masks = ImageList.from_tensors([torch.ones(2, 3, dtype=torch.bool)], size_divisibility=4, pad_value=False)
    assert masks.tensor.dtype == torch.bool and masks.tensor.sum() == 6


def test_catalogs():
    name = "host_test"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
    assert DatasetCatalog.get(name) == [{"file_name": "a.png"}] and name in DatasetCatalog.list()
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    with pytest.raises(KeyError, match=name):
        DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.name == name and MetadataCatalog.get(name) is metadata and name in MetadataCatalog.list()
    assert metadata.set(stuff_classes=["a"], ignore_label=255) is metadata
    metadata.stuff_classes = ["a"]  # the same value is accepted
    with pytest.raises(AssertionError, match="different value"):
        metadata.stuff_classes = ["b"]
    with pytest.raises(AttributeError, match="stuff_colors"):
        _ = metadata.stuff_colors
    assert metadata.get("stuff_colors", 3) == 3 and metadata.get("ignore_label") == 255
    MetadataCatalog.remove(name)
    assert name not in MetadataCatalog.list()


# --- overlays --------------------------------------------------------------------------------------------------------

PALETTE = [(10, 200, 30), (250, 0, 90)]


def draw(labels, names):
    image = np.full((60, 80, 3), 100, dtype=np.uint8)
    metadata = Metadata(name="host_test", stuff_classes=names, stuff_colors=PALETTE)
    drawn = Visualizer(image, metadata).draw_sem_seg(labels, alpha=0.5).get_image()
    assert (image == 100).all()  # the given image is unchanged
    return drawn


def test_visualizer_blends_colours_and_writes_names():
    labels = np.full((60, 80), 255)
    labels[:, :30] = 0
    labels[:, 50:] = 1
    changed = (draw(labels, names=["", "two"]) != draw(labels, names=["one", "two"])).any(axis=-1)
    assert changed.sum() > 20 and abs(np.nonzero(changed)[0].mean() - 30) < 8, "a name in the middle of its region"
    drawn = draw(labels, names=["", ""])  # empty names leave the colours visible
    assert drawn.shape == (60, 80, 3) and drawn.dtype == np.uint8
    for label, color in enumerate(PALETTE):
        assert np.abs(drawn[labels == label].astype(float) - (50 + np.array(color) / 2)).max() <= 1
    assert (drawn[labels == 255] == 100).all()

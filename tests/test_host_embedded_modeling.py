"""The embedded host's layers, ResNets, image lists, catalogs and overlays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from rc2l_d2.host.embedded.catalog import DatasetCatalog, Metadata, MetadataCatalog
from rc2l_d2.host.embedded.config import get_cfg
from rc2l_d2.host.embedded.image_list import ImageList
from rc2l_d2.host.embedded.layers import Conv2d, FrozenBatchNorm2d, SyncBatchNorm, get_norm
from rc2l_d2.host.embedded.registry import build_backbone
from rc2l_d2.host.embedded.resnet import BasicBlock
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


def test_norms_by_name():
    assert get_norm("GN", 64).num_groups == 32
    assert get_norm("", 64) is None and get_norm(None, 64) is None
    with pytest.raises(KeyError, match="Frozen_BN"):
        get_norm("Frozen_BN", 64)


def test_sync_bn_is_bn_on_a_single_rank():
    torch.manual_seed(0)
    sync, plain = get_norm("SyncBN", 4), nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 5, 6)
    torch.testing.assert_close(sync(x), plain(x))
    torch.testing.assert_close(sync.running_var, plain.running_var)
    assert set(sync.state_dict()) == set(plain.state_dict())


def sync_bn_inputs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images per rank, of unequal number and size, and the gradient of their outputs."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 4, 5, 6), (1, 4, 7, 2)]
    return [tuple(torch.randn(s, generator=generator, dtype=torch.float64) * 2 + 1 for _ in range(2)) for s in shapes]


def sync_bn_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    norm = SyncBatchNorm(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
    x, gradient = sync_bn_inputs()[rank]
    x.requires_grad_()
    out = norm(x)
    out.backward(gradient)
    result = {"out": out.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    half = norm(x.detach().bfloat16())
    torch.save({**result, **dict(norm.named_buffers()), "half": half.dtype}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_sync_bn_on_two_ranks_equals_bn_of_the_global_batch(tmp_path):
    torch.multiprocessing.spawn(sync_bn_on_rank, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    def flat(tensors):  # (B, C, H, W) each -> (1, C, 1, all pixels)
        return torch.cat([t.transpose(0, 1).reshape(1, 4, 1, -1) for t in tensors], dim=-1)

    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
    joint = flat([x for x, _ in sync_bn_inputs()]).requires_grad_()
    out = norm(joint)
    out.backward(flat([gradient for _, gradient in sync_bn_inputs()]))
    norm(joint.detach().bfloat16().double())
    torch.testing.assert_close(flat([r["out"] for r in results]), out.detach())
    torch.testing.assert_close(flat([r["x"] for r in results]), joint.grad)
    torch.testing.assert_close(results[0]["weight"] + results[1]["weight"], norm.weight.grad)
    torch.testing.assert_close(results[0]["bias"] + results[1]["bias"], norm.bias.grad)
    for result in results:
        torch.testing.assert_close(result["running_mean"], norm.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result["running_var"], norm.running_var, rtol=1e-4, atol=1e-4)
        assert result["num_batches_tracked"] == 2 and result["half"] == torch.bfloat16


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
    ("depth", "key", "value"), [(18, "OUT_FEATURES", ["res6"]), (18, "RES2_OUT_CHANNELS", 256), (49, "DEPTH", 49)]
)
def test_bad_resnet_options(depth, key, value):
    with pytest.raises(AssertionError, match=rf"MODEL\.RESNETS\.{key}"):
        build_backbone(resnet_config(depth, **{key: value}))


def test_resnet_options():
    backbone = build_backbone(resnet_config(50, RES5_DILATION=2, STRIDE_IN_1X1=False))
    assert backbone.output_shape()["res5"].stride == 16
    first = backbone.res5[0]
    assert first.conv2.dilation == (2, 2) and first.conv2.stride == (1, 1)
    first = backbone.res3[0]
    assert first.conv1.stride == (1, 1) and first.conv2.stride == (2, 2) and first.conv1.out_channels == 128
    assert build_backbone(resnet_config(50)).res3[0].conv1.stride == (2, 2)


def test_basic_block_adds_its_input():
    block = BasicBlock(4, 4).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


def test_initial_weights_are_kaiming_normal_by_fan_out():
    torch.manual_seed(0)
    weight = build_backbone(resnet_config(50)).res5[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


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
    with pytest.raises(AssertionError, match="differ"):
        ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])


def test_dataset_catalog():
    name = "host_test_dataset"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
    assert DatasetCatalog.get(name) == [{"file_name": "a.png"}] and name in DatasetCatalog.list()
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    with pytest.raises(KeyError, match=name):
        DatasetCatalog.get(name)


def test_metadata_catalog():
    name = "host_test_metadata"
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


def test_visualizer_blends_the_palette_into_the_regions():
    labels = np.full((60, 80), 255)
    labels[:, :30] = 0
    labels[:, 50:] = 1
    drawn = draw(labels, names=["", ""])  # empty names leave the colours visible
    assert drawn.shape == (60, 80, 3) and drawn.dtype == np.uint8
    for label, color in enumerate(PALETTE):
        assert np.abs(drawn[labels == label].astype(float) - (50 + np.array(color) / 2)).max() <= 1
    assert (drawn[labels == 255] == 100).all()
    with pytest.raises(AssertionError, match="labels for an image"):
        draw(labels[:10], names=["", ""])


def test_visualizer_writes_the_names_inside():
    labels = np.full((60, 80), 255)
    labels[10:50, 10:70] = 0
    changed = (draw(labels, names=["", "two"]) != draw(labels, names=["one", "two"])).any(axis=-1)
    assert changed.sum() > 50 and not changed[labels == 255].any()
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - 30) < 8 and abs(columns.mean() - 40) < 8

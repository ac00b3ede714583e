"""tools/convert_torchvision_weights.py: names by torchvision's known layout; numbers where torchvision is installed."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.engine import RegionCheckpointer
from rc2l_d2.engine.weights import read_weights, resnet_depth
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_backbone, get_cfg

REPO = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("convert", REPO / "tools/convert_torchvision_weights.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def torchvision_layout(depth: int) -> dict[str, torch.Tensor]:
    """Names and shapes of torchvision's ResNets as they are published, with random values."""
    weights: dict[str, torch.Tensor] = {}

    def norm(name: str, channels: int) -> None:
        for entry in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{name}.{entry}"] = torch.rand(channels) + 0.5
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    weights["conv1.weight"] = torch.randn(64, 3, 7, 7)
    norm("bn1", 64)
    channels, bottleneck = 64, depth >= 50
    for stage, blocks in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            shapes = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            for number, (o, i, k) in enumerate(shapes if bottleneck else [(out, channels, 3), (out, out, 3)], start=1):
                weights[f"{prefix}.conv{number}.weight"] = torch.randn(o, i, k, k) * (2 / (i * k * k)) ** 0.5
                norm(f"{prefix}.bn{number}", o)
            if block == 0 and (stage > 0 or bottleneck):
                weights[f"{prefix}.downsample.0.weight"] = torch.randn(out, channels, 1, 1) / channels**0.5
                norm(f"{prefix}.downsample.1", out)
            channels = out
    weights["fc.weight"], weights["fc.bias"] = torch.zeros(1000, channels), torch.zeros(1000)
    return weights


class Model(torch.nn.Module):
    """Our backbone under the name that it has in a model."""

    def __init__(self, depth: int, norm: str):
        super().__init__()
        cfg = add_rc2l_config(get_cfg())
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RESNETS.NORM = norm
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        self.backbone = build_backbone(cfg)


@pytest.mark.parametrize("depth, suffix", [(18, "pkl"), (34, "pth"), (50, "pkl"), (101, "pth"), (152, "pkl")])
def test_every_weight_of_the_backbone_is_loaded(depth, suffix, tmp_path, caplog):
    source, target = tmp_path / "resnet.pth", tmp_path / f"R.{suffix}"
    weights = torchvision_layout(depth)
    torch.save(weights, source)
    said = tool.run(str(source), str(target))
    assert said.startswith(f"ResNet-{depth}: {len(weights) - 2} weights") and said.endswith("fc.weight, fc.bias")
    assert resnet_depth(read_weights(str(target))["model"]) == depth
    # The frozen norm of pretrained backbones has no counter of batches; nobody has to hear of that.
    model = Model(depth, "BN" if suffix == "pth" else "FrozenBN")
    with caplog.at_level(logging.INFO):
        RegionCheckpointer(model).load(str(target))
    count = len(model.state_dict())
    assert f"Loaded {count} of the model's {count} weights: backbone.stem (" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert torch.equal(model.backbone.stem.conv1.weight, weights["conv1.weight"])
    assert torch.equal(model.backbone.res4[1].conv2.norm.running_var, weights["layer3.1.bn2.running_var"])
    assert torch.equal(model.backbone.res3[0].shortcut.weight, weights["layer2.0.downsample.0.weight"])
    if suffix == "pkl":  # as Detectron2's own zoo files, so that other projects can read it
        with open(target, "rb") as file:
            assert {"model", "__author__", "matching_heuristics"} == set(pickle.load(file))


@pytest.mark.parametrize("depth", [18, 50])
def test_features_are_torchvisions(depth, tmp_path):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed: no features to compare with")
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    random = torchvision_layout(depth)
    theirs.load_state_dict(random)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    tool.run(str(tmp_path / "resnet.pth"), str(tmp_path / "R.pkl"))
    model = Model(depth, "BN").eval()
    RegionCheckpointer(model).load(str(tmp_path / "R.pkl"))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours = model.backbone(images)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for stage in (1, 2, 3, 4):
            x = getattr(theirs, f"layer{stage}")(x)
            torch.testing.assert_close(ours[f"res{stage + 1}"], x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


def test_what_is_no_plain_resnet_is_refused(tmp_path):
    source, target = tmp_path / "a.pth", str(tmp_path / "R.pkl")
    weights = torchvision_layout(50)
    torch.save({**weights, "layer1.0.conv2.weight": torch.zeros(128, 4, 3, 3)}, source)  # a ResNeXt
    with pytest.raises(InputError, match="a.pth is not the state dict of a torchvision ResNet"):
        tool.run(str(source), target)
    torch.save([1, 2], source)
    with pytest.raises(InputError, match="a.pth is not the state dict"):
        tool.run(str(source), target)
    source.write_text("no weights")
    command = [sys.executable, str(REPO / "tools/convert_torchvision_weights.py"), str(source)]
    result = subprocess.run([*command, target], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "a.pth cannot be read" in result.stderr
    with pytest.raises(InputError, match="has to end in .pkl or .pth"):
        tool.run(str(source), str(tmp_path / "R.zip"))


def test_training_on_torchvisions_file_itself_says_what_to_do(tmp_path):
    torch.save(torchvision_layout(18), tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match="convert_torchvision_weights.py"):
        read_weights(str(tmp_path / "resnet18.pth"))

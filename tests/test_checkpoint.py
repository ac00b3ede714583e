"""Checkpoints: written whole, read without running anything, zoo files by name, one sentence for what is none."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from torch import nn

from rc2l_d2.engine import EMATeacher, RegionCheckpointer
from rc2l_d2.engine.weights import with_names_of
from rc2l_d2.engine.whole_files import write_checkpoint
from rc2l_d2.errors import InputError


class Segmentor(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "res2": nn.ModuleDict({"stem": nn.Linear(2, 2)})})
        self.head = nn.Linear(2, 3)


ZOO = {
    "stem.weight": np.full((2, 2), 1, dtype=np.float32),
    "stem.bias": np.full(2, 2, dtype=np.float32),
    "res2.stem.weight": np.full((2, 2), 3, dtype=np.float32),
    "res2.stem.bias": np.full(3, 4, dtype=np.float32),  # another shape
    "fc.weight": np.zeros((5, 2), dtype=np.float32),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_a_checkpoint_is_refreshed_without_being_read_into_memory(tmp_path, monkeypatch):
    model = Segmentor()
    checkpointer = RegionCheckpointer(model, str(tmp_path), ema=EMATeacher(model, 3, 0.9))
    checkpointer.save("model_0000001", iteration=1)
    written = tmp_path / "model_0000001.pth"
    before = torch.load(written, weights_only=True)
    mapped = []

    def write(data: dict, path: str) -> None:
        mapped.append(path in Path("/proc/self/maps").read_text())
        write_checkpoint(data, path)

    monkeypatch.setattr("rc2l_d2.engine.checkpoint.write_checkpoint", write)
    checkpointer.checkpointables["ema"].updates = 7
    checkpointer.refresh("model_0000001", "ema")
    after = torch.load(written, weights_only=True)
    assert mapped == [True] and after["ema"].pop("updates") == 7 and before["ema"].pop("updates") == 0
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("extra", [{}, {"matching_heuristics": True, "__author__": "torchvision"}])
def test_zoo_names_are_matched_by_the_longest_suffix(tmp_path, protocol, extra):
    path = tmp_path / "R-18.pkl"
    scalar = {"epoch": np.float64(3), "tags": {"a"}}
    path.write_bytes(pickle.dumps({"model": dict(ZOO), **scalar, **extra}, protocol=protocol))
    model = Segmentor()
    head, bias = model.head.weight.clone(), model.backbone["res2"]["stem"].bias.clone()
    rest = RegionCheckpointer(model).load(str(path))
    assert rest["epoch"] == 3
    assert (model.backbone["stem"].weight == 1).all() and (model.backbone["stem"].bias == 2).all()
    assert (model.backbone["res2"]["stem"].weight == 3).all()
    assert torch.equal(model.backbone["res2"]["stem"].bias, bias) and torch.equal(model.head.weight, head)


def test_full_names_are_taken_as_they_are(tmp_path):
    """A weight "bias" is not spread over everything that ends in ".bias" where other names are the model's own."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"backbone.stem.bias": np.ones(2, "f4"), "bias": np.ones(3, "f4")}}))
    model = Segmentor()
    head = model.head.bias.clone()
    RegionCheckpointer(model).load(str(path))
    assert (model.backbone["stem"].bias == 1).all() and torch.equal(model.head.bias, head)


def test_early_names_of_maskformers_zoo_are_understood():
    model = {f"sem_seg_head.{name}": torch.zeros(1) for name in ("pixel_decoder.layer_1.bias", "predictor.query_embed")}
    model |= {"backbone.stem.bias": torch.zeros(1), "criterion.empty_weight": torch.zeros(1)}
    early = {name.replace("pixel_decoder.", ""): value + 1 for name, value in model.items()}
    other = {"sem_seg_head.gone": torch.ones(1), "backbone.res2.norm.num_batches_tracked": torch.tensor(3)}
    assert with_names_of(model, {**early, **other}).keys() == model.keys() | {"sem_seg_head.gone"}
    assert with_names_of(model, model) == model


def test_the_log_lists_what_was_loaded_and_what_was_not(tmp_path, caplog):
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": dict(ZOO), "matching_heuristics": True, "__author__": "torchvision"}))
    with caplog.at_level(logging.INFO):
        RegionCheckpointer(Segmentor()).load(str(path))
    assert "Loaded 3 of the model's 6 weights: backbone.stem (2), backbone.res2 (1)" in caplog.text
    for missing in ("head.{bias, weight}", "backbone.res2.stem.bias"):
        assert missing in caplog.text.split("not found in the checkpoint")[1]
    assert "fc.weight" in caplog.text.split("not used by the model")[1]


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    torch.save({"model": {"roi_heads.bias": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="None of the weights"):
        RegionCheckpointer(Segmentor()).load(str(tmp_path / "other.pth"))


def test_one_weight_for_two_parameters_is_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.weight": np.ones((2, 2), "f4")}}))
    with pytest.raises(ValueError, match="stem.weight fits backbone.res2.stem.weight and backbone.stem.weight"):
        RegionCheckpointer(Segmentor()).load(str(path))


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth", "bin"])
def test_hostile_files_are_refused_unrun(tmp_path, suffix):
    path, sign = tmp_path / f"a.{suffix}", tmp_path / "ran"
    content = {"model": {"head.bias": Hostile(str(sign))}}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"a.{suffix} cannot be read as a checkpoint"):
        RegionCheckpointer(Segmentor()).load(str(path))
    assert not sign.exists()


def test_what_is_no_checkpoint_is_said_so(tmp_path):
    load = RegionCheckpointer(Segmentor()).load
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(InputError, match=r"text.pth cannot be read as a checkpoint \(it is no torch file, or holds"):
        load(str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="list.pth is not a checkpoint, it holds a list"):
        load(str(tmp_path / "list.pth"))
    (tmp_path / "caffe.pkl").write_bytes(pickle.dumps({"res2_0_branch2a_w": np.zeros(1)}))
    with pytest.raises(InputError, match="caffe.pkl has Caffe2's parameter names"):
        load(str(tmp_path / "caffe.pkl"))
    with pytest.raises(InputError, match="missing.pth does not exist"):
        load(str(tmp_path / "missing.pth"))
    with pytest.raises(InputError, match="nowhere://missing.pth could not be fetched"):
        load("nowhere://missing.pth")
    model = Segmentor()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    other = Segmentor()
    RegionCheckpointer(other).load(str(tmp_path / "bare.pth"))
    assert torch.equal(other.head.weight, model.head.weight)


def test_a_checkpoint_is_complete_and_replaces_nothing_until_it_is_whole(tmp_path, monkeypatch):
    model = Segmentor()
    teacher = EMATeacher(model, num_classes=2, max_decay=0.5)
    checkpointer = RegionCheckpointer(model, str(tmp_path), ema=teacher)
    checkpointer.save("model_0000001", iteration=1)
    saved = (tmp_path / "model_0000001.pth").read_bytes()

    def fails_halfway(data, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fails_halfway)
    with pytest.raises(InputError, match=r"model_0000001.pth could not be written \(No space left.*--resume"):
        checkpointer.save("model_0000001", iteration=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == saved
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"

    other = Segmentor()
    follower = EMATeacher(other, num_classes=2, max_decay=0.5)
    rest = RegionCheckpointer(other, str(tmp_path), ema=follower).resume_or_load("", resume=True)
    assert rest["iteration"] == 1
    assert torch.equal(other.head.weight, model.head.weight)
    assert torch.equal(follower.model.head.weight, model.head.weight)


def test_a_teacher_of_another_shape_is_told(tmp_path):
    model = Segmentor()
    RegionCheckpointer(model, str(tmp_path), ema=EMATeacher(model, num_classes=2, max_decay=0.5)).save("model_a")
    other = Segmentor()
    other.head = nn.Linear(2, 7)
    checkpointer = RegionCheckpointer(other, str(tmp_path), ema=EMATeacher(other, num_classes=2, max_decay=0.5))
    with pytest.raises(InputError, match=r"model_a\.pth does not fit this configuration .*head\.weight"):
        checkpointer.load(str(tmp_path / "model_a.pth"))


def test_an_older_runs_later_iterations_go_first(tmp_path):
    old = RegionCheckpointer(Segmentor(), str(tmp_path))
    for place, name in enumerate(("model_0000089", "model_0000099")):
        old.save(name)
        os.utime(tmp_path / f"{name}.pth", (place, place))
    checkpointer = RegionCheckpointer(Segmentor(), str(tmp_path), keep=2)
    checkpointer.save("model_0000004", iteration=4)
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["model_0000004.pth", "model_0000099.pth"]
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 4


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit_flipped(content: bytes) -> bytes:
    # In the middle of the largest tensor, which zip members of torch files hold as it is.
    place = content.index(torch.full((2, 3), 7.5).numpy().tobytes()) + 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [truncated, one_bit_flipped, lambda content: b"", None])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before_it(tmp_path, damage, caplog):
    checkpointer = RegionCheckpointer(Segmentor(), str(tmp_path))
    for iteration in (1, 2, 3):
        checkpointer.save(f"model_000000{iteration}", iteration=iteration, extra=torch.full((2, 3), 7.5))
    last = tmp_path / "model_0000003.pth"
    if damage is None:
        last.unlink()
    else:
        last.write_bytes(damage(last.read_bytes()))
    assert RegionCheckpointer(Segmentor(), str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 2
    assert "model_0000003.pth is damaged or missing" in caplog.text
    for iteration in (1, 2):
        (tmp_path / f"model_000000{iteration}.pth").write_bytes(b"")
    with pytest.raises(InputError, match="No checkpoint in .* is whole"):
        RegionCheckpointer(Segmentor(), str(tmp_path)).resume_or_load("", resume=True)


def test_the_newest_checkpoints_are_kept(tmp_path):
    checkpointer = RegionCheckpointer(Segmentor(), str(tmp_path), keep=2)
    for name in ("model_0000004", "model_0000009", "model_0000014", "model_final"):
        checkpointer.save(name)
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == [
        "model_0000009.pth", "model_0000014.pth", "model_final.pth"
    ]  # fmt: skip


FULL_DISK = """
import resource, signal, sys, torch
from rc2l_d2.engine import RegionCheckpointer
from rc2l_d2.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # or the system ends the process where a write goes beyond the limit
checkpointer = RegionCheckpointer(torch.nn.Linear(100, 100), sys.argv[1])
checkpointer.save("model_0000001", iteration=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    checkpointer.save("model_0000002", iteration=2)
except InputError as error:
    print(error)
print(checkpointer.resume_or_load("", resume=True)["iteration"])
"""


def test_where_the_disk_takes_no_more_the_earlier_checkpoint_stays(tmp_path):
    """A file that the system refuses to let grow stands for the full disk: torch's writer meets it half-way."""
    result = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, cwd=REPO)
    assert result.returncode == 0, result.stderr
    told, iteration = result.stdout.strip().splitlines()
    assert "model_0000002.pth could not be written" in told and iteration == "1"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]

"""Checkpoints: atomic writes, safe reads, names of zoo files, one-sentence errors."""

import logging
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rc2l_d2.engine import EMATeacher, RegionCheckpointer
from rc2l_d2.engine.weight_names import with_names_of
from rc2l_d2.engine.whole_files import write_checkpoint
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog


class Segmentor(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "res2": nn.ModuleDict({"stem": nn.Linear(2, 2)})})
        self.head = nn.Linear(2, classes)


ZOO = {
    "stem.weight": np.full((2, 2), 1, dtype=np.float32),
    "stem.bias": np.full(2, 2, dtype=np.float32),
    "res2.stem.weight": np.full((2, 2), 3, dtype=np.float32),
    "res2.stem.bias": np.full(3, 4, dtype=np.float32),  # another shape
    "fc.weight": np.zeros((5, 2), dtype=np.float32),
}


def with_teacher(model: nn.Module, folder: Path) -> RegionCheckpointer:
    return RegionCheckpointer(model, str(folder), ema=EMATeacher(model, max_decay=0.5))


def pickled(path: Path, weights: dict, protocol: int = 4, **more) -> str:
    path.write_bytes(pickle.dumps({"model": weights, **more}, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("part", ["model", "ema"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, part):
    with_teacher(Segmentor(), tmp_path).save("a")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    weights = content["model"] if part == "model" else content["ema"]["model"]
    weights["other.weight"] = torch.tensor([float("nan")])  # which no model uses
    torch.save(content, tmp_path / "a.pth")
    checkpointer = with_teacher(Segmentor(), tmp_path)
    if part == "model":
        checkpointer.load(str(tmp_path / "a.pth"))
    weights["head.bias"] = torch.tensor([1.0, float("nan"), 2.0])
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth has non-finite values in head\.bias; use an earlier checkpoint"):
        checkpointer.load(str(tmp_path / "a.pth"))


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_a_checkpoint_is_refreshed_without_being_read_into_memory(tmp_path, monkeypatch):
    checkpointer = with_teacher(Segmentor(), tmp_path)
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
def test_zoo_names_are_matched_by_the_longest_suffix_and_logged(tmp_path, protocol, extra, caplog):
    path = pickled(tmp_path / "R-18.pkl", ZOO, protocol, epoch=np.float64(3), tags={"a"}, **extra)
    model = Segmentor()
    head, bias = model.head.weight.clone(), model.backbone["res2"]["stem"].bias.clone()
    with caplog.at_level(logging.INFO):
        assert RegionCheckpointer(model).load(path, checkpointables=[])["epoch"] == 3
    assert (model.backbone["stem"].weight == 1).all() and (model.backbone["stem"].bias == 2).all()
    assert (model.backbone["res2"]["stem"].weight == 3).all()
    assert torch.equal(model.backbone["res2"]["stem"].bias, bias) and torch.equal(model.head.weight, head)
    assert "Loaded 3 of the model's 6 weights: backbone.stem (2), backbone.res2 (1)" in caplog.text
    for missing in ("head.{bias, weight}", "backbone.res2.stem.bias"):
        assert missing in caplog.text.split("not found in the checkpoint")[1]
    assert "fc.weight" in caplog.text.split("not used by the model")[1]


def test_full_names_stay_and_early_maskformer_names_are_renamed(tmp_path):
    """A weight "bias" does not match every name that ends in ".bias" if other names are the model's own."""
    model = Segmentor()
    head = model.head.bias.clone()
    stem = {"backbone.stem.bias": np.ones(2, "f4"), "backbone.stem.weight": np.ones((2, 2), "f4")}
    path = pickled(tmp_path / "a.pkl", {**stem, "bias": np.ones(3, "f4")})
    RegionCheckpointer(model).load(path, checkpointables=[])
    assert (model.backbone["stem"].bias == 1).all() and torch.equal(model.head.bias, head)
    names = ("sem_seg_head.pixel_decoder.layer_1.bias", "sem_seg_head.predictor.query_embed", "backbone.stem.bias")
    new = dict.fromkeys(names, torch.zeros(1))
    early = {name.replace("pixel_decoder.", ""): value for name, value in new.items()}
    other = {"sem_seg_head.gone": torch.ones(1), "backbone.res2.norm.num_batches_tracked": torch.tensor(3)}
    assert with_names_of(new, {**early, **other}).keys() == new.keys() | {"sem_seg_head.gone"}
    assert with_names_of(new, new) == new


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth", "bin"])
def test_hostile_files_are_refused_without_running_them(tmp_path, suffix):
    path, sign = tmp_path / f"a.{suffix}", tmp_path / "ran"
    if suffix == "pkl":
        pickled(path, {"head.bias": Hostile(str(sign))})
    else:
        torch.save({"model": {"head.bias": Hostile(str(sign))}}, path)
    with pytest.raises(InputError, match=f"a.{suffix} cannot be read as a checkpoint"):
        RegionCheckpointer(Segmentor()).load(str(path))
    assert not sign.exists()


def test_files_that_are_no_checkpoints_or_do_not_fit_are_refused(tmp_path):
    load = RegionCheckpointer(Segmentor()).load
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weights": 1}, tmp_path / "empty.pth")
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "vision.pth")
    torch.save({"model": {"roi_heads.bias": torch.zeros(1)}}, tmp_path / "other.pth")
    whole = Segmentor().state_dict()
    torch.save({"backbone.stem.weight": torch.zeros(2, 2), "head.bias": torch.zeros(3)}, tmp_path / "part.pth")
    torch.save({**whole, "head.bias": torch.zeros(5)}, tmp_path / "shape.pth")
    (tmp_path / "caffe.pkl").write_bytes(pickle.dumps({"res2_0_branch2a_w": np.zeros(1)}))
    pickled(tmp_path / "two.pkl", {"stem.weight": np.ones((2, 2), "f4")})
    for name, message in {
        "text.pth": r"text.pth cannot be read as a checkpoint \(it is not a torch file, or holds",
        "list.pth": "list.pth is not a checkpoint but a list",
        "empty.pth": 'empty.pth is not a checkpoint, it has no "model" weights',
        "vision.pth": "vision.pth is not the state dict of a torchvision ResNet-18",
        "other.pth": "None of the weights",
        "caffe.pkl": "caffe.pkl has Caffe2's parameter names",
        "part.pth": r"part.pth lacks 4 of the model's 6 weights \(backbone.stem.bias, backbone.res2.stem.weight, ",
        "shape.pth": r"shape.pth does not fit this configuration \(head.bias is \(5,\) in the file and \(3,\) in the ",
        "two.pkl": "stem.weight matches backbone.res2.stem.weight and backbone.stem.weight",
        "missing.pth": "missing.pth does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            load(str(tmp_path / name))
    with pytest.raises(InputError, match="nowhere://missing.pth could not be fetched"):
        load("nowhere://missing.pth")
    with_teacher(Segmentor(), tmp_path).save("model_a")
    with pytest.raises(InputError, match=r"model_a\.pth does not fit this configuration .*head\.weight"):
        with_teacher(Segmentor(classes=7), tmp_path).load(str(tmp_path / "model_a.pth"))


class Normed(nn.Module):
    """Has what torch fills in by itself: batch counters, and a buffer that no file has."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"conv": nn.Conv2d(2, 2, 1), "norm": nn.BatchNorm2d(2)})
        self.register_buffer("pixel_mean", torch.zeros(3), persistent=False)


def test_only_weights_from_the_file_count(tmp_path, caplog):
    """A file of another project is refused, also where torch adds counters to it; counters may be absent."""
    torch.save({"model": {"decode_head.conv.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    torch.save({"backbone.conv.weight": torch.zeros(2, 2, 1, 1)}, tmp_path / "part.pth")
    full = {name: value for name, value in Normed().state_dict().items() if "num_batches" not in name}
    torch.save(
        {"model": {**full, "pixel_mean": torch.zeros(3, 1, 1), "fc.bias": torch.zeros(1)}}, tmp_path / "full.pth"
    )
    torch.save({name: value for name, value in full.items() if name != "backbone.norm.bias"}, tmp_path / "most.pth")
    for checkpointables in ([], None):
        with pytest.raises(InputError, match=r"None of the weights in \S*other.pth has a name and shape of the model"):
            RegionCheckpointer(Normed()).load(str(tmp_path / "other.pth"), checkpointables)
    with pytest.raises(InputError, match=r"part.pth lacks 5 of the backbone's 6 weights \(backbone.conv.bias, "):
        RegionCheckpointer(Normed()).load(str(tmp_path / "part.pth"), [])
    with caplog.at_level(logging.INFO):
        RegionCheckpointer(Normed()).load(str(tmp_path / "full.pth"))
    assert "Loaded 6 of the model's 6 weights: backbone.conv (2), backbone.norm (4)" in caplog.text
    assert "0 of the model's weights are not in the file, 1 of its weights are not used." in caplog.text
    with pytest.raises(InputError, match=r"most.pth lacks 1 of the model's 6 weights \(backbone.norm.bias\); give the"):
        RegionCheckpointer(Normed()).load(str(tmp_path / "most.pth"))
    torch.save({**full, "backbone.other.bias": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"more.pth has 1 weights that the model of this configuration lacks \(b"):
        RegionCheckpointer(Normed()).load(str(tmp_path / "more.pth"))
    RegionCheckpointer(Normed()).load(str(tmp_path / "more.pth"), [])
    RegionCheckpointer(Normed()).load(str(tmp_path / "most.pth"), [])
    assert "lacks 1 of the backbone's 6 weights (backbone.norm.bias); they start from random values." in caplog.text


@pytest.mark.parametrize(("classes", "problem"), [
    (["road", "car", "sky"], ""),
    (["Road", "car", "sky "], ""),
    (["car", "road", "sky"], r"3 and 3 classes; class 0 is 'road' in the file and 'car' in the data set"),
    (["road", "car"], r"3 and 2 classes; class 2 is 'sky' in the file and missing in the data set"),
])  # fmt: skip
def test_classes_and_their_order_are_compared_with_the_data_set(tmp_path, classes, problem, caplog, request):
    for name, names in (("of_the_file", ["road", "car", "sky"]), ("other_set", classes)):
        MetadataCatalog.get(name).set(stuff_classes=names)
        request.addfinalizer(lambda name=name: MetadataCatalog.remove(name))
    RegionCheckpointer(Segmentor(), str(tmp_path), data_sets=["of_the_file"]).save("model_final")
    reader = RegionCheckpointer(Segmentor(), str(tmp_path), data_sets=["not_registered", "other_set"])
    request.addfinalizer(lambda: MetadataCatalog.remove("not_registered"))
    for load in (
        lambda: reader.load(str(tmp_path / "model_final.pth")),
        lambda: reader.resume_or_load("", resume=True),
    ):
        if problem:
            with pytest.raises(
                InputError, match=rf"model_final.pth was trained with other .* 'other_set' \({problem}\)"
            ):
                load()
        else:
            load()
    reader.load(str(tmp_path / "model_final.pth"), [])  # a starting point may have other classes
    assert ("what it has learned of the classes is of little use" in caplog.text) == bool(problem)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path):
    """A limited file size stands for the full disk: torch's writer fails halfway."""
    checkpointer = with_teacher(Segmentor(), tmp_path)
    checkpointer.save("model_0000001", iteration=1)
    saved = (tmp_path / "model_0000001.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        for name in ("model_0000001", "model_0000002"):
            with pytest.raises(InputError, match=f"{name}.pth could not be written .*--resume"):
                checkpointer.save(name, iteration=2, large=torch.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == saved
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"

    other, bare = with_teacher(Segmentor(), tmp_path), Segmentor()
    assert other.resume_or_load("", resume=True)["iteration"] == 1
    torch.save(other.model.state_dict(), tmp_path / "bare.pth")
    RegionCheckpointer(bare).load(str(tmp_path / "bare.pth"))
    for model in (other.model, other.checkpointables["ema"].model, bare):
        assert torch.equal(model.head.weight, checkpointer.model.head.weight)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit_flipped(content: bytes) -> bytes:
    # Within a tensor, which torch files hold uncompressed.
    place = content.index(torch.full((2, 3), 7.5).numpy().tobytes()) + 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [truncated, one_bit_flipped, lambda content: b"", None])
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before_it(tmp_path, damage, caplog):
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
    with pytest.raises(InputError, match="All checkpoints in .* are damaged"):
        RegionCheckpointer(Segmentor(), str(tmp_path)).resume_or_load("", resume=True)


def test_the_newest_checkpoints_are_kept(tmp_path):
    names = ("model_0000004", "model_0000009", "model_0000014", "model_final")
    checkpointer = RegionCheckpointer(Segmentor(), str(tmp_path), keep=2)
    for name in names:
        checkpointer.save(name)
    assert sorted(file.stem for file in tmp_path.glob("*.pth")) == sorted(names[1:])
    # A new run in the folder removes the older run's checkpoints first, although their iterations are later.
    for time, name in enumerate(names[1:3]):
        os.utime(tmp_path / f"{name}.pth", (time, time))
    checkpointer.save("model_0000002", iteration=2)
    assert sorted(file.stem for file in tmp_path.glob("*.pth")) == ["model_0000002", "model_0000014", "model_final"]
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 2

"""Unlabelled images in tar shards give the samples and losses of the same images as files; bad shards are left out."""

import gzip
import io
import json
import os
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import call_command, tiny_overrides
from data_files import SmallTree, small_config, write_dataset, write_definition

from rc2l_d2.commands import check
from rc2l_d2.data import build_train_loader, load_definition, read_image, register_definition
from rc2l_d2.data.checks.check import config_splits
from rc2l_d2.data.checks.leaks import leaks
from rc2l_d2.data.checks.scan import scan
from rc2l_d2.data.datasets.splits import split_entries, split_images
from rc2l_d2.errors import InputError

PATTERN = "shards/train-{000..002}.tar"


def write_shard(file: Path, members: dict[str, bytes], **options) -> None:
    """Write a tar file; a name that ends with "/" is a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, len(content))
            tar.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, images: list[str]) -> None:
    """Write ``images`` in their order to three shards, each with members of other kinds beside it."""
    for number, part in enumerate(np.array_split(images, 3)):
        members = {}
        for index, path in enumerate(part):
            members |= {
                f"{index:06d}.json": b"{}", f"{index:06d}{Path(path).suffix}": Path(path).read_bytes(),
                f"{index:06d}.seg.png": b"label", f"{index:06d}.cls": b"3",
            }  # fmt: skip
        write_shard(folder / f"shards/train-{number:03d}.tar", members)


@pytest.fixture
def small(tmp_path):
    """A data set whose split "sharded" holds the six images of "unlabeled" once more."""
    tree = SmallTree(tmp_path)
    tree.content["parts"] |= {"sharded": {"shards": PATTERN}}
    definition = load_definition(write_definition(tree.yaml, tree.content))
    write_shards(tree.folder, list(split_images(definition, "unlabeled").images))
    tree.config["DATASETS.UNLABELED"] = tree.named("sharded")
    return tree


def config(tree):
    register_definition(write_definition(tree.yaml, tree.content))
    cfg = small_config(tree.content["name"])
    cfg.DATASETS.UNLABELED = tree.named("sharded")
    return cfg


def found(tree, **changes) -> list[str]:
    """The images of the split "sharded", below the folder of the shards."""
    definition = load_definition(write_definition(tree.yaml, tree.content | changes))
    return [path.removeprefix(f"{tree.folder}/shards/") for path in split_images(definition, "sharded").images]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_files_and_resume(small, workers):
    cfg = config(small)
    cfg.DATASETS.UNLABELED = small.named("unlabeled")
    expected = list(islice(build_train_loader(cfg), 6))
    files = [entry["file_name"] for entry in build_train_loader(cfg).loader.dataset.entries[1]]
    members = [f"{small.folder}/shards/train-{i // 2:03d}.tar/{i % 2:06d}.png" for i in range(6)]
    cfg.DATASETS.UNLABELED = small.named("sharded")
    cfg.DATALOADER.NUM_WORKERS = workers
    for start in (0, 3):
        steps = islice(build_train_loader(cfg, start_iter=start), 6 - start)
        for (_, same), (_, samples) in zip(expected[start:], steps, strict=True):
            for one, other in zip(same, samples, strict=True):
                assert other.pop("file_name") == members[files.index(one["file_name"])]
                assert other.keys() == one.keys() - {"file_name"}
                assert all(torch.equal(value, one[key]) for key, value in other.items())


def test_losses_of_two_steps_are_those_of_files(toy_definition, tmp_path, command_line):
    files = split_images(load_definition(toy_definition), "unlabeled").images
    write_shards(tmp_path / "data", list(files))
    content = yaml.safe_load(Path(toy_definition).read_text())
    content |= {"name": "sharded", "root": str(tmp_path / "data"), "parts": {"all": {"shards": PATTERN}}}
    definition = write_definition(tmp_path / "sharded.yaml", content)
    losses = []
    for name in ("tiny_unlabeled", "sharded_all"):
        out = tmp_path / name
        result = command_line(
            "--config-file", "configs/toy/rc2l_R18.yaml", *tiny_overrides(toy_definition),
            "DATASETS.DEFINITIONS", f"('{toy_definition}','{definition}')", "DATASETS.UNLABELED", f"('{name}',)",
            "SOLVER.MAX_ITER", "2", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "0", "OUTPUT_DIR", str(out),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        rows = map(json.loads, (out / "metrics.json").read_text().splitlines())
        losses.append({key: value for row in rows for key, value in row.items() if "loss" in key})
    assert losses[0] == losses[1] and losses[0]["loss_smc"] > 0
    assert "18 of 72 members of tar shards are images" in (out / "log.txt").read_text()


def test_entries_and_samples_of_them_read_their_bytes(small):
    small.content["parts"] |= {
        "half": {"of": "sharded", "fraction": 0.5}, "rest": {"of": "sharded", "except": "half"},
    }  # fmt: skip
    definition = load_definition(write_definition(small.yaml, small.content))
    expected = [read_image(path) for path in split_images(definition, "unlabeled").images]
    whole = split_entries(definition, "sharded", "existing")
    assert [np.array_equal(read_image(entry["file_name"]), image) for entry, image in zip(whole, expected, strict=True)]
    assert whole[-1]["file_name"] == f"{small.folder}/shards/train-002.tar/000001.png"
    assert whole[-1]["image_id"] == "shards/train-002.tar/000001"
    places = {}
    for split in ("half", "rest"):
        for entry in pickle.loads(pickle.dumps(split_entries(definition, split, "none"))):
            entry = pickle.loads(pickle.dumps(entry))  # as worker processes pass it on
            places[entry["file_name"]] = read_image(entry["file_name"])
    assert len(places) == 6
    for entry, image in zip(whole, expected, strict=True):
        assert np.array_equal(places[entry["file_name"]], image)


def test_members_that_are_images(small):
    names = [
        "a/", "a/1.png", "./2.PNG", "a/._3.png", ".png", "4.seg.png", "5.txt", "6.png", f"{'long/' * 40}7.png", "é.png"
    ]  # fmt: skip
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        small.content["parts"]["sharded"] = {"shards": f"shards/{form}.tar"}
        write_shard(small.folder / f"shards/{form}.tar", {name: name.encode() for name in names}, format=form)
        wanted = ["a/1.png", "2.PNG", "6.png", f"{'long/' * 40}7.png", "é.png"]
        assert found(small) == [f"{form}.tar/{name}" for name in wanted]
        images = split_images(load_definition(small.yaml), "sharded").images
        assert [image.read_bytes().decode().removeprefix("./") for image in images] == wanted
    assert found(small, image_suffix=".seg.png") == [f"{form}.tar/4.seg.png"]


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [
        ("shards/{8..11}.tar", ["8", "9", "10", "11"]),
        ("shards/{008..011}.tar", ["008", "009", "010", "011"]),
        ("shards/a{0..1}-{1..2}.tar", ["a0-1", "a0-2", "a1-1", "a1-2"]),
        ("shards/*-1.tar", ["a0-1", "a1-1"]),
        ("**/a{0..1}-?.tar", ["a0-1", "a0-2", "a1-1", "a1-2"]),
    ],
)
def test_ranges_and_globs(small, pattern, shards):
    for name in ("8", "9", "10", "11", "008", "009", "010", "011", "a0-1", "a0-2", "a1-1", "a1-2"):
        write_shard(small.folder / f"shards/{name}.tar", {"x.png": b""})
    small.content["parts"]["sharded"] = {"shards": pattern}
    assert found(small) == [f"{name}.tar/x.png" for name in shards]


def _without(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + content[stop:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:4000],  # within an image
        lambda content: content[:1024],  # after the first member
        lambda content: content[:1300],  # within a header
        lambda content: content[:1024] + b"\xff" * 512 + content[1536:],  # a header in the middle
        lambda content: _without(content, 600, 700),
        lambda content: b"<html>" + b"x" * 2000,
        lambda content: bytes(2048),
        lambda content: b"",
    ],
)
def test_a_damaged_shard_is_left_out(small, logged, damage):
    shard = small.folder / "shards/train-001.tar"
    shard.write_bytes(damage(shard.read_bytes()))
    assert [path.split("/")[0] for path in found(small)] == ["train-000.tar"] * 2 + ["train-002.tar"] * 2
    (warning,) = [message for level, message in logged if level == "WARNING"]
    assert warning.startswith(f"{shard}: the tar shard ") and warning.endswith("; it is left out.")


def test_no_usable_shard_is_one_sentence(small):
    small.content["image_suffix"] = [".bmp", ".gif"]
    reason = r"\S*/train-000\.tar: the tar shard has no image whose name ends with \.bmp or \.gif"
    with pytest.raises(InputError, match=rf"holds no image, as none of 3 tar shards can be used \({reason}\); replace"):
        found(small)


def test_an_image_that_cannot_be_decoded_is_skipped(small, logged):
    shard = small.folder / "shards/train-001.tar"
    with tarfile.open(shard) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    members["000000.png"] = members["000000.png"][:-20]
    write_shard(shard, members)
    cfg = config(small)
    cfg.DATALOADER.MAX_BAD_SHARE = 0.2
    used = [sample["file_name"] for _, step in islice(build_train_loader(cfg), 3) for sample in step]
    assert len(used) == 12 and used.count(f"{shard}/000001.png") == 4 and f"{shard}/000000.png" not in used
    (warning,) = [message for level, message in logged if level == "WARNING"]
    assert warning.startswith(f"{shard}/000000.png: the image file ends too early; ") and "(1 of 6 so far)" in warning
    # A shard that goes during the run is skipped image by image.
    os.remove(shard)
    cfg.DATALOADER.MAX_BAD_SHARE = 0.5
    used = [sample["file_name"] for _, step in islice(build_train_loader(cfg), 3) for sample in step]
    assert len(used) == 12 and not any(name.startswith(str(shard)) for name in used)


def test_compressed_shards_are_refused(small):
    shard = small.folder / "shards/train-001.tar"
    for name, pattern in (("train-001.tar", PATTERN), ("x.tar.gz", "shards/x.tar.gz")):
        (shard.parent / name).write_bytes(gzip.compress(shard.read_bytes()))
        small.content["parts"]["sharded"] = {"shards": pattern}
        with pytest.raises(InputError, match=rf"/{name}: the tar shard is compressed, so that .*; decompress it and"):
            found(small)


def test_a_pattern_without_files_is_refused(small):
    for pattern, missing in (
        ("shards/val-*.tar", r"val-\*\.tar"),
        ("shards/train-{001..004}.tar", r"train-003\.tar, shards/train-004\.tar"),
    ):
        small.content["parts"]["sharded"] = {"shards": pattern}
        message = rf"split 'sharded' names tar shards that are not below \S*/data/: shards/{missing}; correct the key"
        with pytest.raises(InputError, match=message):
            found(small)


def test_labels_and_bands_are_refused(small):
    cfg = config(small)
    cfg.DATASETS.TRAIN = small.named("sharded")
    with pytest.raises(InputError, match=r"split 'sharded' has its images in tar shards, without labels; use it in "):
        build_train_loader(cfg)
    with pytest.raises(InputError, match=r"split 'sharded' has its images in tar shards, .* without the keys bands "):
        found(small, bands=[1, 2, 3])


def test_a_description_is_checked_with_its_shards(small, monkeypatch):
    for splits in ((), ("sharded",)):
        small.options()
        result = call_command(monkeypatch, "check_dataset.py", check.main, "--definition", small.yaml, *splits)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "split 'sharded': 6 images without labels, all read" in result.stdout


def test_the_checks_read_shards(small, monkeypatch):
    bad = Path(write_dataset(small.folder.parent / "other")["root"]) / "images/train_000.png"
    write_shard(small.folder / "shards/train-000.tar", {
        "copy.png": (small.folder / "images/val_001.png").read_bytes(), "bad.png": bad.read_bytes()[:-20],
    })  # fmt: skip
    command = ("--config-file", "configs/toy/rc2l_R18.yaml", "--full", "--workers", "2", *small.options())
    result = call_command(monkeypatch, "check_dataset.py", check.main, *command)
    shard = f"{small.folder}/shards/train-000.tar"
    assert result.returncode == 2 and f"    {shard}/bad.png (the image file ends too early)\n" in result.stdout
    assert f"    {shard}/copy.png (copy of {small.folder}/images/val_001.png)\n" in result.stdout
    assert "_sharded): 6 images without labels, all read" in result.stdout
    splits = config_splits(config(small))
    (remark,) = leaks([scan(split) for split in splits.values()])
    assert remark.names == (f"{shard}/copy.png (copy of {small.folder}/images/val_001.png)",)

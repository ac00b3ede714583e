"""The wheel: its files, and its commands in an empty folder far from the checkout."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import REPO, TINY, call_command

import rc2l_d2
from rc2l_d2.command_words import command_words
from rc2l_d2.data.toy.dataset import draw_toy_dataset

pytest.importorskip("setuptools", minversion="70.1", reason="the first that builds wheels by itself")

BUILD = """if True:
    import sys
    from setuptools import build_meta
    getattr(build_meta, sys.argv[1])(sys.argv[2])
"""


def run(folder: Path, *command: object, **environment: str) -> subprocess.CompletedProcess:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env={**outside, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build from a source distribution, as ``python -m build`` does, of a copy, as a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "copy").mkdir()
    for name in ("rc2l_d2", "configs"):
        shutil.copytree(REPO / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder / "copy")
    result = run(folder / "copy", sys.executable, "-c", BUILD, "build_sdist", folder)
    assert result.returncode == 0, result.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    result = run(archive.with_suffix("").with_suffix(""), sys.executable, "-c", BUILD, "build_wheel", folder)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """Install the wheel to a folder, with the commands in its ``bin``."""
    site = tmp_path_factory.mktemp("site")
    result = run(site, sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    assert result.returncode == 0, result.stderr
    return site


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_package_and_its_configurations(wheel):
    assert wheel.name == f"rc2l_d2-{rc2l_d2.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    files = {path for path in (REPO / "rc2l_d2").rglob("*.*") if path.is_file() and "__pycache__" not in path.parts}
    here = {path.relative_to(REPO) for path in files}
    configs = {Path("rc2l_d2") / path.relative_to(REPO) for path in (REPO / "configs").rglob("*.yaml")}
    assert len(configs) > 10 and inside == {path.as_posix() for path in here | configs}
    assert points.count("rc2l-") == len(COMMANDS)


COMMANDS = ("train", "predict", "check", "report", "quickstart")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_of_setup_py_starts(name, monkeypatch):
    module, function = re.search(rf'"rc2l-{name} = ([\w.]+):(\w+)"', (REPO / "setup.py").read_text()).groups()
    result = call_command(monkeypatch, f"rc2l-{name}", getattr(importlib.import_module(module), function), "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: rc2l-{name} ")


def test_messages_name_commands_as_the_user_can_type_them(tmp_path, monkeypatch):
    for name in ("train", "predict", "check", "report"):
        monkeypatch.chdir(REPO)
        python, script = command_words(name)
        assert python == "python" and (REPO / script).is_file()
        monkeypatch.chdir(tmp_path)
        assert command_words(name) == [f"rc2l-{name}"]


@pytest.mark.slow
def test_the_commands_train_and_predict_in_an_empty_folder(site, tmp_path):
    draw_toy_dataset(tmp_path / "datasets" / "toy", num_train=32, num_val=4, size=(64, 64), seed=0)
    config = ("--config-file", "configs/toy/rc2l_R18.yaml")
    short = (*TINY, "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", "out")
    # Each of the two ranks has to find the package and the configuration too.
    train = run(
        tmp_path, site / "bin" / "rc2l-train", *config, "--num-gpus", "2", "--dist-url", "auto", *short,
        PYTHONPATH=str(site),
    )  # fmt: skip
    assert train.returncode == 0, train.stderr
    assert f"args.config_file={site}/rc2l_d2/configs/toy/rc2l_R18.yaml" in train.stdout
    (tmp_path / "empty.jpg").touch()
    predict = run(
        tmp_path, site / "bin" / "rc2l-predict", "--weights", "out/teacher_final.pth", "--labels",
        "--input", "empty.jpg", "datasets/toy/JPEGImages/val_*.jpg", "--output", "seen", PYTHONPATH=str(site),
    )  # fmt: skip
    assert predict.returncode == 2, predict.stderr
    assert predict.stderr.splitlines()[-1].startswith("rc2l-predict: empty.jpg: ")
    names = [f"val_{number:05d}.png" for number in range(4)]
    assert sorted(path.name for path in (tmp_path / "seen" / "labels").iterdir()) == names

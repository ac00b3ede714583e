"""The installed package: its files, and its commands in an empty folder far from the checkout."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPO, TINY, call_command

from rc2l_d2.command_words import command_words
from rc2l_d2.data.toy.dataset import draw_toy_dataset

# Name of the command -> "module:function".
SCRIPTS = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]


def run(folder: Path, *command: object, **environment: str) -> subprocess.CompletedProcess:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env={**outside, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of an installation from a source distribution, with the commands in its ``bin``.

    The distribution is built in a copy, as a build leaves folders behind.
    """
    pytest.importorskip("setuptools", minversion="70.1", reason="older ones need the package wheel")
    folder = tmp_path_factory.mktemp("build")
    for name in ("rc2l_d2", "configs", "models"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder)
    build = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    result = run(folder, sys.executable, "-c", build)
    assert result.returncode == 0, result.stderr
    (archive,) = (folder / "dist").glob("*.tar.gz")
    site = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--target", site)
    result = run(folder, *pip, archive)
    assert result.returncode == 0, result.stderr
    return site


@pytest.mark.slow
def test_all_of_the_package_is_installed_with_its_configurations_and_models(site):
    def files(folder: Path, pattern: str = "*.*") -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob(pattern) if "__pycache__" not in path.parts}

    configs = {Path("configs") / path for path in files(REPO / "configs", "*.yaml")}
    models = {Path("models") / path for path in files(REPO / "models")}
    assert len(configs) > 10 and Path("models/README.md") in models
    assert files(site / "rc2l_d2") == files(REPO / "rc2l_d2") | configs | models
    assert {path.name for path in (site / "bin").iterdir()} == set(SCRIPTS)


@pytest.mark.slow
def test_the_commands_train_and_predict_in_an_empty_folder(site, tmp_path):
    draw_toy_dataset(tmp_path / "datasets" / "toy", num_train=32, num_val=4, size=(64, 64), seed=0)
    config = ("--config-file", "configs/toy/rc2l_R18.yaml")
    short = (*TINY, "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", "out")
    # Each of the two ranks has to find the package and the configuration.
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_command_starts(name, monkeypatch):
    module, function = SCRIPTS[name].split(":")
    result = call_command(monkeypatch, name, getattr(importlib.import_module(module), function), "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {name} ")


@pytest.mark.parametrize("name", ("train", "predict", "check", "report"))
def test_messages_name_commands_as_the_user_can_type_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    python, script = command_words(name)
    assert python == "python" and (REPO / script).is_file()
    monkeypatch.chdir(tmp_path)
    assert command_words(name) == [f"rc2l-{name}"]

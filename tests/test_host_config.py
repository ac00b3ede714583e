"""The embedded host's configuration, and the choice of the host."""

import os
import sys
from pathlib import Path

import pytest

from rc2l_d2 import host
from rc2l_d2.host.embedded.config import CfgNode, configurable, get_cfg


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_each_call_returns_new_defaults():  # test_host_parity.py compares them with Detectron2's
    cfg = get_cfg()
    cfg.SEED = 3
    assert get_cfg().SEED == -1


def test_base_files_are_inherited_from(tmp_path):
    write(tmp_path / "base" / "root.yaml", "SEED: 1\nSOLVER: {MAX_ITER: 10, BASE_LR: 0.5}\n")
    write(tmp_path / "base" / "middle.yaml", "_BASE_: root.yaml\nSOLVER: {MAX_ITER: 20}\n")
    write(tmp_path / "extra.yaml", "OUTPUT_DIR: there\nSEED: 2\n")
    name = write(tmp_path / "top.yaml", "_BASE_: [base/middle.yaml, extra.yaml]\nMODEL: {RESNETS: {DEPTH: 18}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(name)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 20, 0.5)
    assert cfg.OUTPUT_DIR == "there" and cfg.MODEL.RESNETS.DEPTH == 18


# --- configurable ----------------------------------------------------------------------------------------------------


class Model:
    @configurable
    def __init__(self, depth, *, width=2, name="model"):
        self.values = (depth, width, name)

    @classmethod
    def from_config(cls, cfg, scale=1):
        return {"depth": cfg.DEPTH, "width": cfg.WIDTH * scale}


class Wide(Model):
    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), "width": 100}


def test_configurable():
    cfg = CfgNode({"DEPTH": 5, "WIDTH": 7})
    assert Model(1).values == (1, 2, "model")
    assert Model(depth=1, width=3).values == (1, 3, "model")
    assert Model(cfg).values == (5, 7, "model")
    assert Model(cfg, 2).values == (5, 14, "model")
    assert Model(cfg, width=1, name="mine").values == (5, 1, "mine")
    assert Wide(cfg, name="wide").values == (5, 100, "wide")


# --- choice of the host ----------------------------------------------------------------------------------------------


def test_all_names_are_there():
    assert [name for name in host.__all__ if not hasattr(host, name)] == []
    modules = {"embedded": "rc2l_d2.host.embedded.registry", "detectron2": "detectron2.modeling.meta_arch.build"}
    assert host.build_model.__module__ == modules[host.HOST] and host.HOST_REASON
    assert os.environ.get("RC2L_HOST", "") in ("", host.HOST)


@pytest.fixture
def choose(monkeypatch, tmp_path):
    """Choose the host anew, given RC2L_HOST and the text of a ``detectron2/__init__.py``."""

    def detectron2_modules() -> dict:
        names = [name for name in sys.modules if name.split(".")[0] == "detectron2"] + ["rc2l_d2.host.detectron2"]
        return {name: sys.modules.pop(name) for name in names if name in sys.modules}

    def call(wanted: str, package: str) -> tuple[str, str]:
        write(tmp_path / "detectron2" / "__init__.py", package)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("RC2L_HOST", wanted)
        return host._choose()[:2]

    before = detectron2_modules()
    yield call
    detectron2_modules()
    sys.modules.update(before)


# A Detectron2 whose torchvision does not fit its torch, and one whose extension was never compiled.
BROKEN, UNBUILT = "raise RuntimeError('operator torchvision::nms does not exist')", ""


@pytest.mark.parametrize(
    ("package", "error"),
    [(BROKEN, "RuntimeError: operator torchvision::nms does not exist"), (UNBUILT, "detectron2._C")],
)
def test_a_detectron2_that_fails_to_import_is_not_used(choose, package, error):
    name, reason = choose("", package)
    assert name == "embedded" and reason.startswith("Detectron2 is installed but can't be imported") and error in reason
    with pytest.raises(ImportError) as info:
        choose("detectron2", package)
    assert str(info.value).startswith(f"RC2L_HOST is detectron2, but {reason}: install it")


def test_the_environment_forces_a_host(choose):
    assert choose("embedded", BROKEN) == ("embedded", "set by RC2L_HOST")
    with pytest.raises(ImportError, match='RC2L_HOST is "detectron": set it to "embedded"'):
        choose("detectron", UNBUILT)

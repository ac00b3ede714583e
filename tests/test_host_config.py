"""The embedded host's configuration, and which host the door opens to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rc2l_d2.host.embedded.config import CfgNode, configurable, get_cfg

ROOT = Path(__file__).resolve().parents[1]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_defaults_are_detectron2s():
    cfg = get_cfg()
    assert cfg.VERSION == 2 and cfg.SEED == -1 and cfg.OUTPUT_DIR == "./output"
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675] and cfg.MODEL.BACKBONE.FREEZE_AT == 2
    assert cfg.MODEL.RESNETS.NORM == "FrozenBN" and cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert cfg.SOLVER.WARMUP_FACTOR == 1 / 1000 and cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value"
    assert cfg.INPUT.FORMAT == "BGR" and cfg.INPUT.CROP.SIZE == [0.9, 0.9]
    cfg.SEED = 3
    assert get_cfg().SEED == -1  # each call gives a new one


def test_default_values_agree_with_detectron2_where_it_is_there():
    try:
        from detectron2.config import get_cfg as detectron2_get_cfg
    except Exception as error:
        pytest.skip(f"Detectron2 can't be imported: {error}")

    def compare(ours, theirs, prefix=""):
        for key, value in ours.items():
            if isinstance(value, CfgNode):
                compare(value, theirs[key], f"{prefix}{key}.")
            else:
                assert theirs[key] == value, prefix + key

    compare(get_cfg(), detectron2_get_cfg())


def test_what_is_dumped_can_be_merged(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", "(3, 4)", "MODEL.WEIGHTS", "a.pth", "SOLVER.BASE_LR", "1e-4"])
    assert cfg.INPUT.MIN_SIZE_TRAIN == (3, 4) and cfg.SOLVER.BASE_LR == 1e-4
    again = get_cfg()
    again.merge_from_file(write(tmp_path / "config.yaml", cfg.dump()))
    assert again == cfg


def test_base_files_are_inherited_from(tmp_path):
    write(tmp_path / "base" / "root.yaml", "SEED: 1\nSOLVER: {MAX_ITER: 10, BASE_LR: 0.5}\n")
    write(tmp_path / "base" / "middle.yaml", "_BASE_: root.yaml\nSOLVER: {MAX_ITER: 20}\n")
    write(tmp_path / "extra.yaml", "OUTPUT_DIR: there\nSEED: 2\n")
    name = write(tmp_path / "top.yaml", "_BASE_: [base/middle.yaml, extra.yaml]\nMODEL: {RESNETS: {DEPTH: 18}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(name)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 20, 0.5)
    assert cfg.OUTPUT_DIR == "there" and cfg.MODEL.RESNETS.DEPTH == 18
    absolute = write(tmp_path / "other" / "top.yaml", f"_BASE_: {tmp_path}/extra.yaml\n")
    cfg.merge_from_file(absolute)
    assert cfg.SEED == 2


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("SOLVER: {MAX_ITERS: 10}\n", KeyError, "SOLVER.MAX_ITERS"),
        ("NO_SUCH_GROUP: {A: 1}\n", KeyError, "NO_SUCH_GROUP"),
        ("SOLVER: {MAX_ITER: many}\n", ValueError, "SOLVER.MAX_ITER"),
        ("SEED: !!python/object/apply:os.getpid []\n", ValueError, "top.yaml is not plain YAML data"),
        ("SEED: !!python/tuple [1]\n", ValueError, "not plain YAML data"),
        ("SEED: [1\n", ValueError, "top.yaml is not plain YAML data"),
        ("- 1\n- 2\n", ValueError, "keys and values"),
        ("", ValueError, "top.yaml must hold keys and values"),
        ("_BASE_: 3\n", ValueError, "file names"),
        ("VERSION: 1\n", ValueError, "VERSION is 1"),
        ("_BASE_: top.yaml\n", ValueError, "based on itself"),
        ("_BASE_: nowhere.yaml\n", FileNotFoundError, "nowhere.yaml"),
        ("_BASE_: unsafe.yaml\n", ValueError, "unsafe.yaml is not plain YAML data"),
        ("_BASE_: seed.yaml\nSEED: {A: 1}\n", AssertionError, "SEED"),
    ],
)
def test_bad_files(tmp_path, text, error, words):
    write(tmp_path / "unsafe.yaml", "SEED: !!python/name:os.system\n")
    write(tmp_path / "seed.yaml", "SEED: 1\n")
    cfg = get_cfg()
    with pytest.raises(error) as info:
        cfg.merge_from_file(write(tmp_path / "top.yaml", text))
    assert words in str(info.value)
    assert cfg == get_cfg()


def test_unsafe_loading_can_not_be_asked_for(tmp_path):
    with pytest.raises(ValueError, match="safe YAML loader only"):
        get_cfg().merge_from_file(write(tmp_path / "a.yaml", "SEED: 1\n"), allow_unsafe=True)


# --- configurable ----------------------------------------------------------------------------------------------------


class Model:
    @configurable
    def __init__(self, depth, *, width=2, name="model"):
        self.values = (depth, width, name)

    @classmethod
    def from_config(cls, cfg, scale=1):
        return {"depth": cfg.DEPTH, "width": cfg.WIDTH * scale}


CFG = CfgNode({"DEPTH": 5, "WIDTH": 7})


def test_configurable_class():
    assert Model(1).values == (1, 2, "model")
    assert Model(depth=1, width=3).values == (1, 3, "model")
    assert Model(CFG).values == Model(cfg=CFG).values == (5, 7, "model")
    assert Model(CFG, 2).values == Model(CFG, scale=2).values == (5, 14, "model")
    assert Model(CFG, width=1, name="mine").values == (5, 1, "mine")


def test_configurable_finds_the_from_config_of_the_subclass():
    class Wide(Model):
        @classmethod
        def from_config(cls, cfg, **kwargs):
            return {**super().from_config(cfg), "width": 100, **kwargs}

    assert Wide(CFG, name="wide").values == (5, 100, "wide")


def test_configurable_used_wrongly():
    class Without:
        @configurable
        def __init__(self):
            pass

    class NotAClassMethod(Without):
        def from_config(self, cfg):
            return {}

    class NotCfgFirst(Without):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Without(CFG)
    with pytest.raises(TypeError, match="class method"):
        NotAClassMethod(CFG)
    with pytest.raises(TypeError, match="first argument"):
        NotCfgFirst(CFG)


# --- the door --------------------------------------------------------------------------------------------------------

PROGRAM = """
import rc2l_d2.host as host
from rc2l_d2.host import *
missing = [name for name in host.__all__ if name not in globals()]
print(host.HOST, host.HOST_REASON, build_model.__module__, missing, sep="|")
"""


def open_door(host: str | None, path: Path | None = None) -> subprocess.CompletedProcess:
    """Import the door in a process of its own; ``path`` goes before all others."""
    environment = {name: value for name, value in os.environ.items() if name != "RC2L_HOST"}
    if host is not None:
        environment["RC2L_HOST"] = host
    environment["PYTHONPATH"] = os.pathsep.join([str(p) for p in (path, ROOT) if p])
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def broken_detectron2(tmp_path) -> Path:
    """A Detectron2 that fails on import as one does whose torchvision does not fit its torch."""
    write(tmp_path / "detectron2" / "__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')\n")
    return tmp_path


@pytest.fixture
def unbuilt_detectron2(tmp_path) -> Path:
    """A checkout of Detectron2 whose compiled part was never built."""
    write(tmp_path / "detectron2" / "__init__.py", "")
    return tmp_path


def test_door_embedded_on_request(broken_detectron2):
    run = open_door("embedded", broken_detectron2)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "embedded|RC2L_HOST asks for it|rc2l_d2.host.embedded.registry|[]"


def test_door_falls_back_and_says_why(broken_detectron2):
    run = open_door(None, broken_detectron2)
    assert run.returncode == 0, run.stderr
    host, reason, _, missing = run.stdout.strip().split("|")
    assert host == "embedded" and missing == "[]"
    assert reason.endswith("can't be imported (RuntimeError: operator torchvision::nms does not exist)")


def test_door_takes_an_unbuilt_detectron2_for_none(unbuilt_detectron2):
    run = open_door("", unbuilt_detectron2)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("embedded|Detectron2 is there but can't be imported") and "_C" in run.stdout


def test_door_refuses_a_missing_detectron2_that_was_asked_for(broken_detectron2):
    run = open_door("detectron2", broken_detectron2)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: RC2L_HOST is detectron2, but Detectron2 is there but can't be imported")
    assert last.endswith("install it, or unset RC2L_HOST")


def test_door_refuses_other_values():
    run = open_door("detectron")
    assert run.returncode != 0
    assert run.stderr.strip().splitlines()[-1].startswith('ImportError: RC2L_HOST is "detectron": set it to "embedded"')


def test_door_without_a_wish():
    run = open_door(None)
    assert run.returncode == 0, run.stderr
    host, reason, module, missing = run.stdout.strip().split("|")
    assert missing == "[]" and reason
    modules = {"embedded": "rc2l_d2.host.embedded.registry", "detectron2": "detectron2.modeling.meta_arch.build"}
    assert module == modules[host]

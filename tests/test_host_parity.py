"""The two hosts behind the door are one thing: names, signatures, configuration, and numbers to the last digit.

Runs where Detectron2 can be imported, whichever host the rest of the suite is run on.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.host import __all__ as door
from rc2l_d2.host import embedded

try:
    import rc2l_d2.host.detectron2 as real
except Exception as error:  # a build that doesn't fit its torch raises anything
    pytest.skip(f"no Detectron2 to compare with ({type(error).__name__}: {error})", allow_module_level=True)

REPO = Path(__file__).resolve().parent.parent
HOSTS = {"embedded": embedded, "detectron2": real}
# HOST_EVALUATOR is a class of Detectron2 and nothing here: the one name that is not the same thing twice.
NAMES = sorted(set(door) - {"HOST", "HOST_EVALUATOR", "HOST_REASON"})
SOURCES = [
    path
    for pattern in ("rc2l_d2/**/*.py", "tools/**/*.py", "demo/*.py", "train_net.py")
    for path in REPO.glob(pattern)
    if "rc2l_d2/host" not in path.as_posix()
]

# What is called on the door's classes through ``super()``, ``self`` or a result; plain calls are read from the sources.
INDIRECT_CALLS = [
    ("DefaultTrainer.register_hooks", ("self", "hooks"), ()),
    ("DefaultTrainer.resume_or_load", ("self",), ("resume",)),
    ("DefaultTrainer.train", ("self",), ()),
    ("DefaultTrainer.run_step", ("self",), ()),
    ("DefaultTrainer.state_dict", ("self",), ()),
    ("DefaultTrainer.load_state_dict", ("self", "state"), ()),
    ("SimpleTrainer", ("model", "data_loader", "optimizer"), ()),
    ("SimpleTrainer._write_metrics", ("self", "losses", "data_time"), ()),
    ("SimpleTrainer.state_dict", ("self",), ()),
    ("SimpleTrainer.load_state_dict", ("self", "state"), ()),
    ("DetectionCheckpointer", ("model", "save_dir"), ("trainer", "ema")),
    ("DetectionCheckpointer.load", ("self", "path", "checkpointables"), ()),
    ("DetectionCheckpointer.resume_or_load", ("self", "path"), ("resume",)),
    ("DetectionCheckpointer._load_file", ("self", "filename"), ()),
    ("DetectionCheckpointer._load_model", ("self", "checkpoint"), ()),
    ("DetectionCheckpointer.tag_last_checkpoint", ("self", "name"), ()),
    ("DetectionCheckpointer.has_checkpoint", ("self",), ()),
    ("DetectionCheckpointer.get_checkpoint_file", ("self",), ()),
    ("HookBase.before_train", ("self",), ()),
    ("HookBase.before_step", ("self",), ()),
    ("HookBase.after_step", ("self",), ()),
    ("HookBase.after_train", ("self",), ()),
    ("Visualizer.draw_sem_seg", ("self", "sem_seg"), ("alpha",)),
    ("CfgNode.merge_from_file", ("self", "file"), ("allow_unsafe",)),
    ("CfgNode.merge_from_list", ("self", "list"), ()),
    ("CfgNode.clone", ("self",), ()),
    ("CfgNode.defrost", ("self",), ()),
    ("CfgNode.freeze", ("self",), ()),
    ("CfgNode.dump", ("self",), ()),
]


def direct_calls() -> list[tuple[str, int, tuple[str, ...]]]:
    """(dotted name, number of positional arguments, keywords) of every call of a door's name in the project."""
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == "host"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            plain = not any(isinstance(argument, ast.Starred) for argument in node.args)
            if re.fullmatch(r"\w+(\.\w+)*", name) and name.split(".")[0] in imported and plain:
                keywords = tuple(sorted(keyword.arg for keyword in node.keywords if keyword.arg))
                found.add((name, len(node.args), keywords))
    return sorted(found)


def look_up(host, dotted: str):
    for part in dotted.split("."):
        host = getattr(host, part)
    return host


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_on_both_sides_and_of_one_kind(name):
    kinds = {
        host: "class" if inspect.isclass(thing) else "module" if inspect.ismodule(thing) else callable(thing)
        for host, thing in ((host, getattr(module, name)) for host, module in HOSTS.items())
    }
    assert kinds["embedded"] == kinds["detectron2"]


@pytest.mark.parametrize("host", HOSTS)
def test_every_call_that_the_project_makes_fits(host):
    calls = direct_calls()
    assert len(calls) > 30
    for name, positional, keywords in calls:
        thing = look_up(HOSTS[host], name)
        if thing is None:  # HOST_EVALUATOR
            continue
        inspect.signature(thing).bind(*[None] * positional, **dict.fromkeys(keywords))
    for name, positional, keywords in INDIRECT_CALLS:
        inspect.signature(look_up(HOSTS[host], name)).bind(*positional, **dict.fromkeys(keywords))


def test_no_name_of_the_door_is_unused():
    read = " ".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert [name for name in door if not re.search(rf"\b{name}\b", read)] == []


def leaves(node, prefix="") -> dict:
    flat = {}
    for key, value in node.items():
        flat.update(leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value})
    return flat


def test_every_key_of_the_embedded_config_is_detectron2s():
    # MaskFormer's own keys, which Detectron2 leaves to MaskFormer's script.
    ours, theirs = leaves(embedded.get_cfg()), leaves(real.get_cfg())
    assert {key: value for key, value in ours.items() if key not in theirs} == {}
    for key, value in ours.items():
        assert value == theirs[key] and type(value) is type(theirs[key]), key


@pytest.mark.parametrize("host", HOSTS)
def test_every_key_that_the_project_reads_is_there(host):
    """Reads are found in the sources: ``cfg.A.B``, and ``solver.B`` after ``solver = cfg.A``."""
    known = leaves(add_rc2l_config(HOSTS[host].get_cfg()))
    read = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"\bcfg\.([A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)*)", text))
    assert len(read) > 50
    nodes = {key.rsplit(".", depth)[0] for key in known for depth in (1, 2, 3)}
    assert read - known.keys() - nodes == set()


def test_the_registries_hold_the_same_names_of_ours():
    # The host under test has them; what the other one would get is the same code by the same decorator.
    import rc2l_d2.host as host

    assert {"RC2L", "RegionSegmentor"} <= {name for name, _ in host.META_ARCH_REGISTRY}
    assert "RegionHead" in host.SEM_SEG_HEADS_REGISTRY
    for name in ("META_ARCH_REGISTRY", "SEM_SEG_HEADS_REGISTRY"):
        assert type(getattr(embedded, name)) is type(getattr(real, name))
        assert getattr(embedded, name)._name == getattr(real, name)._name


# --- numbers ----------------------------------------------------------------------------------------------------------


def run(host: str, file: Path, mode: str, options: list[str]) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "RC2L_HOST": host}
    result = subprocess.run(
        [sys.executable, "tests/loss_stream.py", str(file), mode, *options],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(file.read_text())
    assert report["host"] == host
    printed = [line.split("copypaste: ")[1] for line in result.stdout.splitlines() if "copypaste: " in line]
    report["printed"] = {
        task: dict(zip(names.split(","), values.split(","), strict=True))
        for task, names, values in zip(printed[0::3], printed[1::3], printed[2::3], strict=True)
    }
    for metrics in report["printed"].values():
        assert (metrics.pop("mIoU_detectron2", None) is None) == (host == "embedded")
    return report


def difference(one: list[dict], other: list[dict]) -> float:
    """Largest relative difference of two streams of losses with the same names."""
    assert [step.keys() for step in one] == [step.keys() for step in other]
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-8) for a, b in zip(one, other, strict=True) for name in a)


@pytest.fixture(scope="module")
def streams(toy_definition, tmp_path_factory):
    """Folder of both hosts' 20 iterations of one run, their reports, and its options."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("parity")
    options = [
        *TINY, "DATASETS.DEFINITIONS", f"('{toy_definition}',)", "DATASETS.TRAIN", "('tiny_labeled',)",
        "DATASETS.UNLABELED", "('tiny_unlabeled',)", "DATASETS.TEST", "('tiny_val',)",
        "SOLVER.MAX_ITER", "20", "SOLVER.CHECKPOINT_PERIOD", "10",
    ]  # fmt: skip
    reports = {
        host: run(host, folder / f"{host}.json", "start", [*options, "OUTPUT_DIR", str(folder / host)])
        for host in HOSTS
    }
    return folder, reports, options


def test_one_seed_gives_one_stream_of_losses_and_one_evaluation(streams):
    folder, reports, _ = streams
    ours, theirs = reports["embedded"], reports["detectron2"]
    assert ours["weights"] == theirs["weights"], "the models began differently"
    assert len(ours["losses"]) == 20 and "loss_smc" in ours["losses"][-1]
    assert difference(ours["losses"], theirs["losses"]) <= 1e-5
    assert len(ours["printed"]) == 2 and ours["printed"] == theirs["printed"]
    theirs_alone = {task: metrics.pop("mIoU_detectron2") for task, metrics in theirs["results"].items()}
    assert leaves(ours["results"]) == pytest.approx(leaves(theirs["results"]), rel=1e-9, nan_ok=True)
    for task, metrics in ours["results"].items():
        assert theirs_alone[task] == pytest.approx(metrics["mIoU_gt"], rel=1e-9)

    def keys(host: str) -> set[str]:
        return {key for line in (folder / host / "metrics.json").read_text().splitlines() for key in json.loads(line)}

    assert keys("detectron2") - keys("embedded") == {"sem_seg/mIoU_detectron2", "sem_seg_teacher/mIoU_detectron2"}
    assert keys("embedded") <= keys("detectron2")


@pytest.mark.parametrize("writer, reader", [("embedded", "detectron2"), ("detectron2", "embedded")])
def test_a_checkpoint_of_one_host_resumes_on_the_other(streams, tmp_path, writer, reader):
    folder, reports, options = streams
    shutil.copy(folder / writer / "model_0000009.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    resumed = run(reader, tmp_path / "resumed.json", "resume", [*options, "OUTPUT_DIR", str(tmp_path)])
    assert resumed["start"] == 10
    assert difference(reports[writer]["losses"][10:], resumed["losses"]) <= 1e-5
    assert resumed["printed"] == reports[writer]["printed"]

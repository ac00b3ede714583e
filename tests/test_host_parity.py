"""Both hosts agree: names, signatures, configuration, and numbers to the last digit.

Runs if Detectron2 can be imported, whichever host the rest of the suite uses.
"""

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
from conftest import REPO, tiny_overrides

from rc2l_d2 import host as layer
from rc2l_d2.config import add_rc2l_config
from rc2l_d2.host import embedded

try:
    import rc2l_d2.host.detectron2 as real
except Exception as error:  # a build that doesn't fit its torch raises any exception
    pytest.skip(f"no Detectron2 to compare with ({type(error).__name__}: {error})", allow_module_level=True)

# All four stages, where other tests stop after the second.
WHOLE = """
    MODEL.RESNETS.OUT_FEATURES ('res2','res3','res4','res5') MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE res5
    MODEL.SEM_SEG_HEAD.IN_FEATURES ('res2','res3','res4','res5')
""".split()
HOSTS = {"embedded": embedded, "detectron2": real}
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for pattern in ("rc2l_d2/**/*.py", "tools/**/*.py", "demo/*.py", "train_net.py")
    for path in REPO.glob(pattern)
    if "rc2l_d2/host" not in path.as_posix()
}
# Methods of the layer's classes that are called through ``super()``, ``self`` or a result, with the names of positional
# and keyword arguments. Plain calls are found in the sources.
INDIRECT_CALLS = """
    DefaultTrainer.register_hooks(self, hooks)
    DefaultTrainer.resume_or_load(self, resume=)
    DefaultTrainer.train(self)
    DefaultTrainer.run_step(self)
    DefaultTrainer.state_dict(self)
    DefaultTrainer.load_state_dict(self, state)
    SimpleTrainer(model, data_loader, optimizer)
    SimpleTrainer.state_dict(self)
    SimpleTrainer.load_state_dict(self, state)
    DetectionCheckpointer(model, save_dir, trainer=, ema=)
    DetectionCheckpointer.load(self, path, checkpointables)
    DetectionCheckpointer.resume_or_load(self, path, resume=)
    DetectionCheckpointer._load_file(self, filename)
    DetectionCheckpointer._load_model(self, checkpoint)
    DetectionCheckpointer.tag_last_checkpoint(self, name)
    DetectionCheckpointer.has_checkpoint(self)
    DetectionCheckpointer.get_checkpoint_file(self)
    HookBase.before_train(self)
    HookBase.before_step(self)
    HookBase.after_step(self)
    HookBase.after_train(self)
    EventStorage.put_scalar(self, name, value, smoothing_hint=)
    EventStorage.put_scalars(self, smoothing_hint=, loss=)
    EventStorage.put_image(self, name, image)
    Visualizer.draw_sem_seg(self, sem_seg, alpha=)
    CfgNode.merge_from_file(self, file, allow_unsafe=)
    CfgNode.merge_from_list(self, list)
    CfgNode.clone(self)
    CfgNode.defrost(self)
    CfgNode.freeze(self)
    CfgNode.dump(self)
"""


def calls() -> set[tuple[str, int, tuple[str, ...]]]:
    """Return (dotted name, number of positional arguments, keywords) of every call of the layer in the project."""
    found = set()
    for call in INDIRECT_CALLS.split("\n")[1:-1]:
        name, arguments = call.strip(" )").split("(")
        arguments = arguments.split(", ")
        keywords = tuple(argument[:-1] for argument in arguments if argument.endswith("="))
        found.add((name, len(arguments) - len(keywords), keywords))
    for text in SOURCES.values():
        tree = ast.parse(text)
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == "host"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
                name = ast.unparse(node.func)
                if re.fullmatch(r"\w+(\.\w+)*", name) and name.split(".")[0] in imported:
                    found.add((name, len(node.args), tuple(sorted(key.arg for key in node.keywords if key.arg))))
    return found


@pytest.mark.parametrize("name", sorted({*layer.__all__} - {"HOST", "HOST_EVALUATOR", "HOST_REASON"}))
def test_every_name_is_of_one_kind_on_both_hosts(name):
    one, other = (getattr(module, name) for module in HOSTS.values())
    for kind in (inspect.isclass, inspect.ismodule, callable):
        assert kind(one) == kind(other)


@pytest.mark.parametrize("host", HOSTS)
def test_every_call_of_the_project_fits(host):
    assert len(calls()) > 60
    for dotted, positional, keywords in calls():
        thing = HOSTS[host]
        for name in dotted.split("."):
            thing = getattr(thing, name)
        if thing is not None:  # HOST_EVALUATOR
            inspect.signature(thing).bind(*[None] * positional, **dict.fromkeys(keywords))


def test_no_name_is_unused():
    text = " ".join(SOURCES.values())
    assert [name for name in layer.__all__ if not re.search(rf"\b{name}\b", text)] == []


def leaves(node, prefix="") -> dict:
    flat = {}
    for key, value in node.items():
        flat.update(leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value})
    return flat


def test_every_key_of_the_embedded_config_is_detectron2s():
    expected = leaves(real.get_cfg())
    for key, value in leaves(embedded.get_cfg()).items():
        assert key in expected and value == expected[key] and type(value) is type(expected[key]), key


@pytest.mark.parametrize("host", HOSTS)
def test_every_key_that_the_project_reads_exists(host):
    known = leaves(add_rc2l_config(HOSTS[host].get_cfg()))
    read = set(re.findall(r"\bcfg\.([A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)*)", " ".join(SOURCES.values())))
    assert len(read) > 50
    nodes = {key.rsplit(".", depth)[0] for key in known for depth in (1, 2, 3)}
    assert read - known.keys() - nodes == set()


def test_registries_are_alike():
    assert {"RC2L", "RegionSegmentor"} <= {name for name, _ in layer.META_ARCH_REGISTRY}
    assert "RegionHead" in layer.SEM_SEG_HEADS_REGISTRY
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
    """Return the largest relative difference between two streams of losses with the same names."""
    assert [step.keys() for step in one] == [step.keys() for step in other]
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-8) for a, b in zip(one, other, strict=True) for name in a)


@pytest.fixture(scope="module")
def streams(toy_definition, tmp_path_factory):
    """Folder of 20 iterations of one run on both hosts, their reports, and the run's options."""
    folder = tmp_path_factory.mktemp("parity")
    options = [*tiny_overrides(toy_definition), *WHOLE, "SOLVER.MAX_ITER", "20", "SOLVER.CHECKPOINT_PERIOD", "10"]
    reports = {
        host: run(host, folder / f"{host}.json", "start", [*options, "OUTPUT_DIR", str(folder / host)])
        for host in HOSTS
    }
    return folder, reports, options


@pytest.mark.slow
def test_one_seed_gives_the_same_losses_and_evaluation(streams):
    folder, reports, _ = streams
    one, other = reports["embedded"], reports["detectron2"]
    assert one["weights"] == other["weights"], "the initial weights differ"
    assert len(one["losses"]) == 20 and "loss_smc" in one["losses"][-1]
    assert difference(one["losses"], other["losses"]) <= 1e-5
    assert len(one["printed"]) == 2 and one["printed"] == other["printed"]
    of_detectron2 = {task: metrics.pop("mIoU_detectron2") for task, metrics in other["results"].items()}
    assert leaves(one["results"]) == pytest.approx(leaves(other["results"]), rel=1e-9, nan_ok=True)
    for task, metrics in one["results"].items():
        assert of_detectron2[task] == pytest.approx(metrics["mIoU_gt"], rel=1e-9)

    def keys(host: str) -> set[str]:
        return {key for line in (folder / host / "metrics.json").read_text().splitlines() for key in json.loads(line)}

    assert keys("detectron2") - keys("embedded") == {"sem_seg/mIoU_detectron2", "sem_seg_teacher/mIoU_detectron2"}
    assert keys("embedded") <= keys("detectron2")


@pytest.mark.slow
@pytest.mark.parametrize("writer, reader", [("embedded", "detectron2"), ("detectron2", "embedded")])
def test_a_checkpoint_of_one_host_resumes_on_the_other(streams, tmp_path, writer, reader):
    folder, reports, options = streams
    shutil.copy(folder / writer / "model_0000009.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    resumed = run(reader, tmp_path / "resumed.json", "resume", [*options, "OUTPUT_DIR", str(tmp_path)])
    assert resumed["start"] == 10
    assert difference(reports[writer]["losses"][10:], resumed["losses"]) <= 1e-5
    assert resumed["printed"] == reports[writer]["printed"]

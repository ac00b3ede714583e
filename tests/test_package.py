"""The package as a whole: registration and time of its import, direction of imports, shell calls, versions."""

import ast
import subprocess
import sys

import pytest
import yaml
from conftest import REPO

import rc2l_d2
from rc2l_d2.host import HOST

SOURCES = sorted([*(REPO / "rc2l_d2").rglob("*.py"), *(REPO / "tools").glob("*.py"), REPO / "train_net.py"])
# A package may import from those after it.
LAYERS = (
    "commands", "prediction", "comparison", "reporting", "engine", "evaluation", "modeling", "data", "regions", "host",
)  # fmt: skip


def imports(path) -> set[str]:
    """Absolute names of a file's imports, relative ones resolved."""
    package = path.relative_to(REPO).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) + "." if node.level else ""
            found.add((base + (node.module or "")).rstrip("."))
    return found


def test_importing_registers_everything_quickly_without_torchvision_and_plots():
    script = """
import sys, time
import rc2l_d2
from rc2l_d2.host import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, DatasetCatalog
for name in ("RC2L", "RegionSegmentor", "PixelConsistency", "PixelContrast", "UniMatch"):
    assert name in META_ARCH_REGISTRY
assert "RegionHead" in SEM_SEG_HEADS_REGISTRY
assert {"voc2012_train", "voc2012_trainaug", "voc2012_val", "cityscapes_train", "cityscapes_val"} <= set(
    DatasetCatalog.list()
)
if "detectron2" not in sys.modules:
    assert "torchvision" not in sys.modules
    assert "pycocotools" in sys.modules and "pycocotools.coco" not in sys.modules, "it imports plots"
print(time.process_time())
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if HOST == "embedded":  # Detectron2 itself takes as long.
        assert float(result.stdout.split()[-1]) < 5, "seconds of processor time"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_run_one_way_and_no_shell_is_called(path):
    names = imports(path)
    assert not any(name.split(".")[0] == "torchvision" for name in names)
    parts = path.relative_to(REPO).parts
    if parts[:2] != ("rc2l_d2", "host"):
        assert not any(name.split(".")[0] == "detectron2" or "host.embedded" in name for name in names)
    used = {name.split(".")[1] for name in names if name.startswith("rc2l_d2.")} & set(LAYERS)
    if parts[0] == "rc2l_d2" and parts[1] in LAYERS:
        assert used <= set(LAYERS[LAYERS.index(parts[1]) :])
    if parts[:2] == ("rc2l_d2", "regions"):
        assert {name.split(".")[0] for name in names} <= {
            "torch",
            "rc2l_d2",
            "__future__",
            "dataclasses",
            "collections",
        }
        assert {name.split(".")[1] for name in names if name.startswith("rc2l_d2.")} <= {"regions"}
    if parts[:2] == ("rc2l_d2", "host"):
        assert used <= {"host"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):  # No shell is called.
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
            assert not any(keyword.arg == "shell" for keyword in node.keywords)


def test_all_files_have_the_same_version():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    newest = next(line for line in (REPO / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert citation["version"] == rc2l_d2.__version__ == newest.split()[1]
    assert citation["references"][0]["doi"] == "10.24963/ijcai.2022/226" and citation["license"] == "Apache-2.0"

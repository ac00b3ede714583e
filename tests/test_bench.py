"""The benchmarks of tools/dev/bench on tiny sizes: their tables are complete."""

import importlib.util
import re
import runpy
import subprocess
import sys

import pytest
import torch
from conftest import REPO, call_command, tiny_overrides

BENCH = REPO / "tools" / "dev" / "bench"
NO_TRANSFORMERS = importlib.util.find_spec("transformers") is None


@pytest.fixture
def bench(monkeypatch):
    """Call a benchmark in this process; returns the numbers of each row of its table by the row's first column."""
    monkeypatch.syspath_prepend(BENCH)

    def call(script: str, *arguments: str) -> dict[str, list[float]]:
        main = lambda: runpy.run_path(str(BENCH / script), run_name="__main__")  # noqa: E731
        return table(call_command(monkeypatch, script, main, *arguments))

    return call


def table(result: subprocess.CompletedProcess) -> dict[str, list[float]]:
    assert result.returncode == 0, result.stderr
    head, body = re.split(r"^-[- ]*$", result.stdout, flags=re.MULTILINE)
    assert "torch" in head
    rows = (re.split(r" {2,}", line.strip()) for line in body.strip().splitlines())
    return {name: [float(x) for cell in cells for x in re.findall(r"\d+(?:\.\d+)?", cell)] for name, *cells in rows}


@pytest.fixture
def tiny(toy_definition) -> list[str]:
    """Options of the toy configuration, made tiny."""
    return ["--config-file", "configs/toy/rc2l_R18.yaml", "--rounds", "2", *tiny_overrides(toy_definition)]


def test_peak_memory_is_the_largest_sum_at_one_time(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import measure

    def work() -> None:
        first = torch.zeros(1_000_000)
        second = first.clone()
        del first
        torch.cat([second, second[:500_000]])

    assert measure.peak_memory(work, torch.device("cpu")) == pytest.approx(10, rel=0.01)  # MB: 4 + 6, after 4 + 4


def test_matching(bench):
    rows = bench("matching.py", "--images", "2", "--queries", "8", "--classes", "5", "--size", "16", "--rounds", "1")
    hungarian, by_class, *_ = rows["matching"]  # milliseconds, rounded
    assert hungarian > 0 and by_class >= 0
    assert len(rows) == (3 if NO_TRANSFORMERS else 5)


@pytest.mark.slow
def test_step(bench, tiny):
    rows = bench("step.py", *tiny)
    parts = ["step", "floor", "regions", "optimizer", "ema", "reading"]
    assert [name for name in rows if name in parts] == parts
    assert rows["step"][1:] == [1, 1, 1]
    for name in parts[1:]:
        milliseconds, middle, low, high = rows[name]
        assert milliseconds > 0 and 0 < low <= middle <= high


@pytest.mark.slow
def test_loader_and_inference(bench, tiny):
    rows = bench("loader.py", "--images", "7", *tiny)
    assert set(rows) == {"labelled", "unlabelled"} and all(rate > 0 for row in rows.values() for rate in row)
    window = {"ENABLED": "True", "CROP_SIZE": "(32,48)", "STRIDE": "(24,24)"}
    options = [word for key, value in window.items() for word in (f"TEST.SLIDING_WINDOW.{key}", value)]
    for images in (options, []):
        rows = bench("inference.py", "--images", "3", *tiny, *images)
        assert list(rows) == ["evaluation", "simple loop"]
        assert rows["evaluation"][0] == pytest.approx(rows["simple loop"][0], abs=0.1)
        assert all(value > 0 for row in rows.values() for value in row[1:])


@pytest.mark.slow
def test_memory(tiny):
    options = tiny[: tiny.index("DATASETS.DEFINITIONS")]  # it reads no data
    sizes = ["--crops", "64x96", "--passes", "1", "--precisions", "mixed"]
    command = [sys.executable, "tools/dev/bench/memory.py", *sizes, *options]
    rows = table(subprocess.run(command, cwd=REPO, capture_output=True, text=True))
    size, peak, seconds, rate = rows["64x96"]
    assert size == 1 and 200 < peak < 5000 and seconds > 0 and rate == pytest.approx(4 / seconds, rel=0.1, abs=0.06)
    result = subprocess.run([*command, "SOLVER.NO", "1"], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("memory.py: SOLVER.NO in the command line is not a config key")


@pytest.mark.slow
def test_sharded(bench, tiny):
    """One rank, which shards nothing; two are tested in test_sharded_optimizer."""
    rows = bench("sharded.py", "--ranks", "1", *tiny)
    assert list(rows) == ["whole", "sharded"] and rows["whole"][:2] == rows["sharded"][:2]
    assert all(0 < size < peak <= later for _, size, peak, later, _, _ in rows.values())


@pytest.mark.slow
def test_backbone(bench):
    importlib.import_module("timm_import")
    rows = bench("backbone.py", "--name", "test_efficientnet", "--images", "1", "--height", "64", "--rounds", "1")
    assert list(rows) == ["plain", "channels-last", "checkpointing"] and all(row[0] > 0 for row in rows.values())


@pytest.mark.slow
def test_growth(bench, tmp_path):
    small = ["--images", "1", "--classes", "4", "--channels", "8", "--rounds", "2"]
    sizes = ["--sizes", "8", "16", "32", "--reference", "8", "--limit", "0.002"]
    rows = bench("growth.py", *small, *sizes, "--picture", str(tmp_path / "growth.png"))
    assert [rows[f"{size}x{size}"][0] for size in (8, 16, 32)] == [1, 4, 16]
    assert len(rows["8x8"]) == len(rows["16x16"]) == 9
    # 20 bytes for each of (32 * 32)^2 pairs do not fit into 2 MB.
    assert len(rows["32x32"]) == 6 and rows["32x32"][-1] == 21
    assert (tmp_path / "growth.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.skipif(NO_TRANSFORMERS, reason="needs the extra 'bench'")
def test_supervised_step(bench):
    rows = bench("supervised_step.py", "--images", "1", "--size", "64", "--rounds", "1")
    assert all(rows[name][0] > 0 for name in ("class", "hungarian", "transformers"))


@pytest.mark.skipif(not NO_TRANSFORMERS, reason="transformers is installed")
def test_supervised_step_needs_transformers(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCH)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(BENCH / "supervised_step.py"))
    assert ".[bench]" in capsys.readouterr().err


@pytest.mark.slow
def test_unimatch_step(bench, tmp_path, monkeypatch):
    """A network with the same interface is used instead of UniMatch's, which is not installed here."""
    files = {
        "configs/pascal.yaml": "{nclass: 21, conf_thresh: 0.95}",
        "model/backbone/resnet.py": "from torch import nn\n\ndef resnet50():\n    return nn.Conv2d(3, 21, 1)\n",
        "model/semseg/deeplabv3plus.py": (
            "import torch\nfrom model.backbone import resnet\n\n"
            "class DeepLabV3Plus(torch.nn.Module):\n"
            "    def __init__(self, config):\n"
            "        super().__init__()\n"
            "        self.backbone = resnet.resnet50()\n"
            "        self.backbone.load_state_dict(torch.load('pretrained/resnet50.pth'))\n"
            "    def forward(self, x, need_fp=False):\n"
            "        return (self.backbone(x), self.backbone(x)) if need_fp else self.backbone(x)\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    rows = bench("unimatch_step.py", str(tmp_path), "--images", "1", "--size", "64", "--rounds", "1")
    for name in [name for name in sys.modules if name.split(".")[0] == "model"]:
        monkeypatch.delitem(sys.modules, name)
    assert list(rows)[:3] == ["UniMatch", "RC2L", "our UniMatch"] and rows["RC2L"][0] > rows["UniMatch"][0] > 0


def test_unimatch_step_needs_its_code(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCH)
    main = lambda: runpy.run_path(str(BENCH / "unimatch_step.py"), run_name="__main__")  # noqa: E731
    result = call_command(monkeypatch, "unimatch_step.py", main, str(tmp_path))
    assert result.returncode == 2 and "not a checkout of UniMatch" in result.stderr

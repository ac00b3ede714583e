"""Fixtures of several test modules: a small generated data set, tiny training options, commands."""

import functools
import gc
import importlib.util
import io
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from rc2l_d2.commands import train
from rc2l_d2.data.datasets import catalog
from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.host import HOST, HOST_REASON, DatasetCatalog, MetadataCatalog, launch, setup_logger

REPO = Path(__file__).resolve().parent.parent
SHARED = REPO.parent / "shared"

# A model and a schedule small enough for tests; everything else is the toy configuration's.
TINY = """
    MODEL.RESNETS.OUT_FEATURES ('res2','res3') MODEL.SEM_SEG_HEAD.IN_FEATURES ('res2','res3')
    MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE res3 MODEL.MASK_FORMER.NUM_OBJECT_QUERIES 10 MODEL.MASK_FORMER.DEC_LAYERS 2
    MODEL.MASK_FORMER.HIDDEN_DIM 32 MODEL.MASK_FORMER.DIM_FEEDFORWARD 32
    MODEL.SEM_SEG_HEAD.CONVS_DIM 32 MODEL.SEM_SEG_HEAD.MASK_DIM 32
    MODEL.SEM_SEG_HEAD.ASPP_DROPOUT 0.0 MODEL.MASK_FORMER.CLASS_DROPOUT 0.0
    INPUT.CROP.SIZE (64,64) INPUT.MIN_SIZE_TRAIN (64,80) SOLVER.IMS_PER_BATCH 2 SOLVER.IMS_PER_BATCH_UNLABELED 2
    SOLVER.REFERENCE_IMS_PER_BATCH 0 SOLVER.AMP.ENABLED False SOLVER.MAX_ITER 6
    SOLVER.WARMUP_ITERS 2 SOLVER.CHECKPOINT_PERIOD 3 TEST.EVAL_PERIOD 0 TEST.REPORT False VIS_PERIOD 0
    MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 2 MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS 2 MODEL.RC2L.CONFIDENCE_THRESHOLD 0.1
    MODEL.RC2L.CLASS_THRESHOLD_RATIO 0.0 MODEL.PIXEL.CONFIDENCE_THRESHOLD 0.1 MODEL.PIXEL.CLASS_THRESHOLD_RATIO 0.0
""".split()


def pytest_configure(config):
    # Two workers on two cores: more threads would wait for each other.
    torch.set_num_threads(1)


# The longest modules, by CPU time. With pytest-xdist's own order, by number of tests, one worker waits at the end.
LONGEST = """
    test_resume test_kills test_distributed test_tutorial test_installed test_gpu_check test_regions_compile test_bench
    test_comparison_runs test_toy_demo test_train_net test_quickstart test_demo test_comparison_plan
    test_region_classifier test_preemption test_annotation_formats test_soak test_export test_host_engine
""".split()


def pytest_collection_modifyitems(items):
    """Run the longest modules first, so that both workers end at the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(LONGEST)))


def pytest_report_header(config):
    return f"host under test: {HOST} ({HOST_REASON})"


@pytest.fixture(scope="session")
def toy_definition(tmp_path_factory) -> str:
    """YAML of a generated data set of 24 + 6 images of 64 x 64 pixels, its own name and folder; 6 labelled."""
    root = tmp_path_factory.mktemp("toy")
    draw_toy_dataset(str(root / "data"), num_train=24, num_val=6, size=(64, 64), seed=3)
    definition = yaml.safe_load((REPO / "configs/toy/dataset.yaml").read_text())
    definition.update(name="tiny", root="data")
    definition["parts"] = {
        "train": {"list": "ImageSets/Segmentation/train.txt"},
        "val": {"list": "ImageSets/Segmentation/val.txt"},
        "labeled": {"of": "train", "fraction": 0.25, "seed": 0},
        "unlabeled": {"of": "train", "except": "labeled"},
        "five": {"of": "train", "fraction": 5 / 24, "seed": 0},
    }
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False))
    return str(path)


@pytest.fixture
def tiny_options(toy_definition, tmp_path) -> list[str]:
    """Config overrides that make configs/toy train on the tiny set, writing below ``tmp_path / "out"``."""
    return [*tiny_overrides(toy_definition), "OUTPUT_DIR", str(tmp_path / "out")]


def tiny_overrides(toy_definition: str) -> list[str]:
    """Config overrides that make configs/toy train on the tiny set."""
    return [
        *TINY, "DATASETS.DEFINITIONS", f"('{toy_definition}',)", "DATASETS.TRAIN", "('tiny_labeled',)",
        "DATASETS.UNLABELED", "('tiny_unlabeled',)", "DATASETS.TEST", "('tiny_val',)",
    ]  # fmt: skip


def give_regions_classes(model: torch.nn.Module) -> None:
    """Let the regions of an untrained model differ in class: class queries start with all classes equally likely."""
    if probe := getattr(getattr(model.sem_seg_head, "predictor", None), "class_probe", None):
        torch.nn.init.normal_(probe.weight, std=0.1)


@pytest.fixture
def make_model(tiny_options):
    """Build a model of configs/toy/rc2l_R18.yaml with an architecture, the tiny options and ``options``."""
    from rc2l_d2.engine import RC2LTrainer, load_config

    def make(architecture: str, *options: str) -> torch.nn.Module:
        overrides = [*tiny_options, "MODEL.META_ARCHITECTURE", architecture, *options]
        torch.manual_seed(0)
        return RC2LTrainer.build_model(load_config("configs/toy/rc2l_R18.yaml", overrides))

    return make


@pytest.fixture
def make_trainer(tiny_options):
    """Build a trainer of configs/toy/rc2l_R18.yaml with the tiny options and ``options``, ready to train."""
    from rc2l_d2.engine import RC2LTrainer, load_config

    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options]))
        give_regions_classes(trainer.model)
        trainer.resume_or_load(resume=False)
        return trainer

    yield make
    gc.collect()  # trainers and their hooks are reference cycles of 200 MB each


@pytest.fixture(autouse=True, scope="module")
def freed_memory():
    """Free the models of a test module at its end; they are reference cycles."""
    yield
    gc.collect()


@pytest.fixture
def logged():
    """Records that this package logs within the test, as (level name, message)."""
    records: list[tuple[str, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append((record.levelname, record.getMessage()))

    logger, handler = logging.getLogger("rc2l_d2"), Keep()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def command_line(monkeypatch):
    """Call ``train_net.py ...`` in this process; for signals, ranks and torchrun see ``start_script``."""
    return lambda *arguments: call_command(monkeypatch, "train_net.py", train.run, *arguments)


@pytest.fixture(scope="session")
def _trained_once(toy_definition, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        result = call_command(
            patch, "train_net.py", train.run, "--config-file", "configs/toy/rc2l_R18.yaml",
            *tiny_overrides(toy_definition), "MODEL.MASK_FORMER.CLASS_MEANS", "10.0",
            "OUTPUT_DIR", str(folder / "out"),
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "out"


@pytest.fixture
def trained_run(_trained_once, tmp_path) -> Path:
    """A copy of the OUTPUT_DIR of a finished tiny RC2L run: config.yaml, model_final.pth, teacher_final.pth, ..."""
    return Path(shutil.copytree(_trained_once, tmp_path / "trained"))


def fork_server() -> BaseContext:
    """Return a context whose processes are forked from one that has the imports, as these take six seconds."""
    context = multiprocessing.get_context("forkserver")
    # The optimizer imports torch._dynamo.
    context.set_forkserver_preload(["torch._dynamo", "rc2l_d2.commands.train", "pytest"])
    return context


def launch_ranks(function: Callable, ranks: int, *arguments: object) -> None:
    """Call ``function(*arguments)`` on ranks of :func:`fork_server`; they end without Python's own exit."""
    fork_server()
    starts = torch.multiprocessing.start_processes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "start_processes", functools.partial(starts, start_method="forkserver"))
        launch(function, ranks, dist_url="auto", args=arguments)


def load_script(path: str) -> ModuleType:
    """Import a script of the checkout that is in no package, such as tools/export.py."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPO / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_command(monkeypatch, name: str, function, *arguments: str, folder=REPO) -> subprocess.CompletedProcess:
    """Call a command's ``function()`` with ``arguments`` in ``folder``; loggers and catalogs are restored."""
    out, err = io.StringIO(), io.StringIO()
    known = set(DatasetCatalog.list())
    loggers = [logging.getLogger(logger) for logger in ("rc2l_d2", "fvcore", "detectron2")]
    handlers = [list(logger.handlers) for logger in loggers]
    with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(catalog, "_REGISTERED", dict(catalog._REGISTERED))
        # It would keep the peak memory of every run.
        patch.setattr(train, "keep_freed_memory", lambda: None)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            status = function() or 0
        except SystemExit as leaving:
            status = leaving.code or 0
        finally:
            for logger, before in zip(loggers, handlers, strict=True):
                for handler in set(logger.handlers) - set(before):
                    logger.removeHandler(handler)
                    handler.close()
            getattr(setup_logger, "cache_clear", int)()  # Detectron2 remembers the handlers that it has added
            for dataset in set(DatasetCatalog.list()) - known:
                DatasetCatalog.remove(dataset)
                MetadataCatalog.remove(dataset)
            gc.collect()  # as in make_trainer
    return subprocess.CompletedProcess([name, *arguments], status, out.getvalue(), err.getvalue())


def start_script(*arguments: object) -> subprocess.CompletedProcess:
    """Run ``python`` with the script and options ``arguments`` in the checkout, in a process of its own."""
    command, environment = [sys.executable, *map(str, arguments)], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)

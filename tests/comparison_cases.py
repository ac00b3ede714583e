"""A comparison of tiny runs, and numbers as if from complete ones, which the tests of rc2l_d2.reporting share."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import REPO, TINY

from rc2l_d2.reporting.run_metrics import Cell, RunResult

TOOL = [sys.executable, "tools/compare_methods.py"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def compare(*arguments, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TOOL, *map(str, arguments)], cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


def description(definition: str, **changes) -> dict:
    """A comparison of two methods on a quarter of the tiny set, two seeds."""
    overrides = dict(zip(TINY[::2], TINY[1::2], strict=True))
    overrides.update({
        "DATASETS.DEFINITIONS": [definition],
        "DATASETS.TEST": ["tiny_val"],
        "SOLVER.MAX_ITER": 24,
        "SOLVER.CHECKPOINT_PERIOD": 8,
        "TEST.EVAL_PERIOD": 12,
        "MODEL.SEMI_SUPERVISED.EMA_DECAY": 0.5,
    })  # fmt: skip
    return {
        "title": "Tiny",
        "config": "configs/toy/Base-toy.yaml",
        "overrides": overrides,
        "methods": {
            "supervised": {"overrides": {"MODEL.META_ARCHITECTURE": "RegionSegmentor"}},
            "rc2l": {"label": "RC²L", "overrides": {"MODEL.META_ARCHITECTURE": "RC2L"}},
        },
        "draws": {
            "1_4": {
                "label": "1/4",
                "overrides": {"DATASETS.TRAIN": ["tiny_labeled"], "DATASETS.UNLABELED": ["tiny_unlabeled"]},
            }
        },
        "seeds": [1, 2],
        "targets": [
            {"better": "rc2l", "than": "supervised", "by": -100, "draw": "1_4"},
            {"better": "rc2l", "than": "supervised", "by": 100, "draw": "1_4"},
        ],
        **changes,
    }


def written(folder: Path, raw: dict, name: str = "tiny.yaml") -> Path:
    # Not quoted by hand: 1_4 is a name here, though YAML 1.1 has it as the number 14.
    (folder / name).write_text(yaml.safe_dump(raw, sort_keys=False).replace("'1_4'", "1_4"))
    return folder / name


def cell(method: str, draw: str, mious: list[float], ious: list[dict] | None = None, planned: int = 3) -> Cell:
    """Complete runs of 10 iterations with these teacher's mIoU and class IoUs, seed by seed."""
    runs = {}
    for seed, miou in enumerate(mious):
        last = {"sem_seg/mIoU": 0.0, "sem_seg_teacher/mIoU": miou}
        last |= {f"sem_seg_teacher/IoU-{name}": iou for name, iou in (ious[seed] if ious else {}).items()}
        runs[seed] = RunResult({10: last}, 10, 10, 0.1)
    return Cell(method, draw, runs, planned)

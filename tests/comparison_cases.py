"""A comparison of tiny runs, finished runs with given numbers, and calls of tools/compare_methods.py."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from conftest import REPO, TINY, call_command, load_script

from rc2l_d2.comparison import Run
from rc2l_d2.engine import load_config

TOOL = [sys.executable, str(REPO / "tools/compare_methods.py")]


def caller(monkeypatch) -> Callable:
    """Return a function that calls tools/compare_methods.py in this process; see conftest.call_command."""
    main = load_script("tools/compare_methods.py").main
    return lambda *arguments: call_command(monkeypatch, "compare_methods.py", main, *arguments)


def description(definition: str, **changes) -> dict:
    """Return a comparison of two methods on a quarter of the tiny set with two seeds."""
    overrides = dict(zip(TINY[::2], TINY[1::2], strict=True))
    overrides |= {"DATASETS.DEFINITIONS": [definition], "DATASETS.TEST": ["tiny_val"], "TEST.EVAL_PERIOD": 3}
    split = {"DATASETS.TRAIN": ["tiny_labeled"], "DATASETS.UNLABELED": ["tiny_unlabeled"]}
    return {
        "title": "Tiny",
        "config": "configs/toy/Base-toy.yaml",
        "overrides": overrides,
        "methods": {
            "supervised": {"overrides": {"MODEL.META_ARCHITECTURE": "RegionSegmentor"}},
            "rc2l": {"label": "RC²L", "overrides": {"MODEL.META_ARCHITECTURE": "RC2L"}},
        },
        "splits": {"1_4": {"label": "1/4", "overrides": split}},
        "seeds": [1, 2],
        **changes,
    }


def written(folder: Path, raw: dict, name: str = "tiny.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder / name


def finish(run: Run, teacher: float, student: float = 0.0, classes: dict[str, float] | None = None) -> None:
    """Write the folder of a finished run of 6 iterations, whose teacher was better by 1 after the first evaluation."""
    run.folder.mkdir(parents=True)
    options = run.arguments[run.arguments.index("--resume") + 1 :]
    (run.folder / "config.yaml").write_text(load_config(run.arguments[1], options).dump())
    ious = {f"sem_seg_teacher/IoU-{name}": iou for name, iou in (classes or {}).items()}
    lines = [
        {"iteration": 2, "sem_seg/mIoU": student, "sem_seg_teacher/mIoU": teacher + 1, "lr": 0.1},
        {"iteration": 5, "time": 0.5, "lr": 0.1},
        {"iteration": 6, "sem_seg/mIoU": student, "sem_seg_teacher/mIoU": teacher, **ious},
    ]
    (run.folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = {"commit": "abc", "hardware": "a GPU", "date": "today", "command": f"python {run.folder}"}
    (run.folder / "starts.json").write_text(json.dumps([start]))

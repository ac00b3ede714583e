"""The circumstances of a run: commit, host, hardware and versions, noted in ``starts.json`` at each start."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..engine import RC2LTrainer
from ..engine.whole_files import write_text
from ..host import HOST, HOST_REASON, comm

_STARTS = "starts.json"
_PACKAGE = Path(__file__).resolve().parents[1]


def note_start(trainer: RC2LTrainer) -> None:
    """Append this start to ``starts.json`` of OUTPUT_DIR, on the main rank; a run from the beginning replaces the file.

    Raises:
        InputError: the file cannot be written.
    """
    if not comm.is_main_process():
        return
    script, *arguments = sys.argv
    words = ["python", script] if script.endswith(".py") else [os.path.basename(script)]
    start = {
        "commit": commit(_PACKAGE),
        "host": HOST,
        "hardware": hardware(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "host_reason": HOST_REASON,
        "processes": comm.get_world_size(),
        "iteration": trainer.start_iter,
        "seed": trainer.seed,
        "command": shlex.join([*words, *arguments]),
    }
    folder = Path(trainer.cfg.OUTPUT_DIR)
    earlier = read_starts(folder) if trainer.start_iter else []
    write_text(folder / _STARTS, json.dumps([*earlier, start], indent=1))


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Return the noted starts, the first one first; empty if the file is missing or damaged."""
    try:
        starts = json.loads((folder / _STARTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) and all(isinstance(start, dict) for start in starts) else []


def commit(folder: Path) -> str:
    """Return the commit checked out in ``folder``, with "-dirty" if tracked files differ; "unknown" if git does not
    track the folder."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", ".")  # the package may be installed below a checkout of something else
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """Return the names of GPUs and processor, and the number of usable cores."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.is_file() else None
    processor = model[1] if model else platform.processor() or platform.machine()
    return f"{', '.join([*gpus, processor])}, {usable_cores()} cores"


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

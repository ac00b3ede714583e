"""What a run is made with: commit, host, hardware and versions; and the note of it that each start leaves behind."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..engine import RC2LTrainer
from ..engine.whole_files import write_text
from ..host import HOST, HOST_REASON, comm

_STARTS = "starts.json"
_PACKAGE = Path(__file__).resolve().parents[1]


def note_start(trainer: RC2LTrainer, config_file: str, overrides: Sequence[str]) -> None:
    """Note in ``starts.json`` of OUTPUT_DIR what training is about to start with, after the starts that it resumes.

    On the main process; the others do nothing.

    Args:
        trainer: knows where it will start.
        config_file, overrides: as given on the command line, which is noted too.

    Raises:
        InputError: the file cannot be written.
    """
    if not comm.is_main_process():
        return
    folder = Path(trainer.cfg.OUTPUT_DIR)
    start = {
        **environment(_PACKAGE),
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "host_reason": HOST_REASON,
        "processes": comm.get_world_size(),
        "iteration": trainer.start_iter,
        "seed": trainer.seed,
        "command": _command_line(),
        "config_file": config_file,
        "overrides": list(overrides),
    }
    earlier = read_starts(folder) if trainer.start_iter else []
    write_text(folder / _STARTS, json.dumps([*earlier, start], indent=1))


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """What :func:`note_start` noted, first start first; empty where there is no such file, or a damaged one."""
    try:
        starts = json.loads((folder / _STARTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) and all(isinstance(start, dict) for start in starts) else []


def _command_line() -> str:
    """What was typed, but for the interpreter's path."""
    script, *arguments = sys.argv
    words = ["python", script] if script.endswith(".py") else [os.path.basename(script)]
    return shlex.join([*words, *arguments])


def environment(repository: Path) -> dict[str, Any]:
    """What a run started now is made with: commit, host, hardware, versions and date, each a line of text."""
    return {
        "commit": commit(repository),
        "host": HOST,
        "hardware": hardware(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def commit(folder: Path) -> str:
    """The commit that is checked out where ``folder`` is, with "-dirty" where tracked files differ from it; "unknown"
    where git does not track the folder (it may be installed below a checkout of something else)."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """GPUs where there are some, else the processor; and its usable cores."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join([*names, _processor()])}, {usable_cores()} cores"


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]

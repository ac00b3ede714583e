"""tools/dev/gpu_check.sh on the CPU, and after failures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO


def gpu_check(folder: Path, python: Path) -> subprocess.CompletedProcess:
    command = ["bash", "tools/dev/gpu_check.sh", str(folder), "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_tiny_sizes_on_the_cpu(tmp_path):
    result = gpu_check(tmp_path, Path(sys.executable))
    assert result.returncode == 0 and "FAILED" not in result.stdout, result.stdout
    assert "4 iterations, largest relative difference" in result.stdout
    for row in ("float32   passed", "compiled  passed", "floor ", "RMC + RCC", "16x16 "):
        assert row in result.stdout


def test_a_failure_is_reported_and_does_not_stop_the_others(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    python.chmod(0o755)
    result = gpu_check(tmp_path / "out", python)
    assert result.returncode == 1
    assert result.stdout.count("FAILED: ") == result.stdout.count("\nno such module\n") == 6

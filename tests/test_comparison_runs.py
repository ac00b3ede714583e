"""The launcher of tools/compare_methods.py: with a stand-in for train_net.py, and (slow) with train_net.py itself."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison_cases import TOOL, caller, description, finish, written
from conftest import REPO

from rc2l_d2.comparison import load_comparison, train_missing
from rc2l_d2.errors import InputError

# Finishes a run whose folder "prepared" has its results, after a second start if there is a file "slow".
STAND_IN = """
import os, shutil, sys, time
folder = sys.argv[sys.argv.index("OUTPUT_DIR") + 1]
print("threads", os.environ["OMP_NUM_THREADS"])
if os.path.exists(f"{folder}/slow"):
    os.remove(f"{folder}/slow")
    open(f"{folder}/begun", "w").close()
    time.sleep(600)
if not os.path.exists(f"{folder}/prepared"):
    sys.exit("There is no data.")
for name in ("model_final.pth", "last_checkpoint"):
    open(f"{folder}/{name}", "w").close()
shutil.copytree(f"{folder}/prepared", folder, dirs_exist_ok=True)
"""


@pytest.fixture
def prepared(toy_definition, tmp_path, monkeypatch):
    """A comparison of four runs, none started, whose stand-in for train_net.py will finish each of them."""
    monkeypatch.chdir(REPO)
    (tmp_path / "train.py").write_text(STAND_IN)
    comparison = load_comparison(written(tmp_path, description(toy_definition)), tmp_path / "out")
    for run in comparison.runs:
        finish(run, 50.0)
        shutil.move(run.folder, tmp_path / "results")
        shutil.move(tmp_path / "results", run.folder / "prepared")
    before = signal.getsignal(signal.SIGTERM)
    yield comparison, tmp_path / "train.py"
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("keep_weights", [False, True])
def test_runs_are_trained_and_their_checkpoints_deleted(prepared, capsys, keep_weights):
    comparison, script = prepared
    assert not any(run.finished() for run in comparison.runs)
    assert train_missing(comparison.runs, script, comparison.output, jobs=2, keep_weights=keep_weights) == []
    assert all(run.finished() for run in comparison.runs)
    assert capsys.readouterr().out.count(": finished") == 4
    assert len(list(comparison.output.rglob("*.pth"))) == (4 if keep_weights else 0)
    threads = (comparison.runs[0].folder / "output.log").read_text()
    assert threads == f"threads {max(1, len(os.sched_getaffinity(0)) // 2)}\n"


def test_a_failed_run_is_reported_and_the_others_continue(prepared, monkeypatch):
    comparison, script = prepared
    shutil.rmtree(comparison.runs[1].folder / "prepared")
    failures = train_missing(comparison.runs, script, comparison.output)
    log = comparison.runs[1].folder / "output.log"
    assert failures == [f"rc2l, 1_4, seed 1 failed (status 1; {log}): There is no data."]
    assert [run.finished() is not None for run in comparison.runs] == [True, False, True, True]
    # The next call has one run left, and none of another method.
    file = comparison.output.parent / "tiny.yaml"
    dry = caller(monkeypatch)(file, "--output", comparison.output, "--dry-run")
    assert dry.stdout.count("\n") == 1 and "--resume MODEL.RESNETS" in dry.stdout, dry.stderr
    assert "OUTPUT_DIR " + str(comparison.runs[1].folder) in dry.stdout
    only = caller(monkeypatch)(file, "--output", comparison.output, "--dry-run", "--only", "supervised")
    assert only.returncode == 0 and not only.stdout
    wrong = caller(monkeypatch)(file, "--only", "nobody")
    assert wrong.returncode == 2 and "--only nobody is not a method; known: supervised, rc2l." in wrong.stderr


def test_an_interruption_ends_the_runs_and_a_second_call_is_refused(prepared):
    comparison, script = prepared
    slow = comparison.runs[0].folder
    (slow / "slow").touch()
    code = f"""if True:
        import sys
        from pathlib import Path
        from rc2l_d2.comparison import load_comparison, train_missing
        folder = Path({str(comparison.output.parent)!r})
        try:
            runs = load_comparison(folder / "tiny.yaml", folder / "out").runs
            train_missing(runs, folder / "train.py", folder / "out")
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPO)
    deadline = time.monotonic() + 60
    while not (slow / "begun").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    with pytest.raises(InputError, match="Another call"):
        train_missing(comparison.runs, script, comparison.output)
    process.terminate()
    assert process.wait(30) == 130
    # The lock is free: nothing was left running.
    assert train_missing(comparison.runs, script, comparison.output) == []
    assert all(run.finished() for run in comparison.runs)


@pytest.mark.slow
def test_a_comparison_is_interrupted_and_continues(toy_definition, tmp_path, monkeypatch):
    """With train_net.py: SIGTERM leaves a checkpoint, the same command resumes, and then has nothing to do."""
    raw = description(toy_definition, seeds=[1])
    raw["overrides"].update({"SOLVER.MAX_ITER": 40, "SOLVER.CHECKPOINT_PERIOD": 10, "TEST.EVAL_PERIOD": 0})
    del raw["methods"]["rc2l"]
    file, out = written(tmp_path, raw), tmp_path / "out"
    # With --jobs 2 a run has one thread; on busy cores two threads would wait for each other.
    command = [*TOOL, str(file), "--output", str(out), "--jobs", "2", "--records", str(tmp_path / "records")]
    process = subprocess.Popen(command, cwd=REPO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run = out / "runs/supervised/1_4/seed1"
    deadline = time.monotonic() + 120
    while not (run / "last_checkpoint").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert "interrupted" in process.communicate(timeout=90)[1] and process.returncode == 130
    result = subprocess.run(command, cwd=REPO, text=True, capture_output=True, timeout=300)
    assert result.returncode == 0 and "1 runs, 1 to train" in result.stdout, result.stderr
    first, second = re.findall(r"Starting training from iteration (\d+)", (run / "output.log").read_text())
    assert int(first) == 0 < int(second)
    report = (out / "tiny.md").read_text()
    assert "not finished" not in report and len(list((tmp_path / "records").rglob("seed1.json"))) == 1
    assert not list(out.rglob("*.pth")) and not list(out.rglob("report.html"))
    again = caller(monkeypatch)(file, "--output", out)
    assert again.returncode == 0 and "1 runs, 0 to train" in again.stdout, again.stderr


def test_the_tool_plans_with_the_package_beside_it(tmp_path):
    for folder in ("tools", "rc2l_d2"):
        (tmp_path / folder).mkdir()
    shutil.copy(REPO / "tools/compare_methods.py", tmp_path / "tools")
    (tmp_path / "rc2l_d2/__init__.py").write_text("raise SystemExit('of this checkout')")
    command = [sys.executable, str(Path(tmp_path / "tools/compare_methods.py")), "--help"]
    assert "of this checkout" in subprocess.run(command, cwd=REPO, capture_output=True, text=True).stderr

"""An interrupted and resumed run ends bit by bit like an uninterrupted one, through the real command line."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from training_runs import Runs, assert_same, last_checkpoint, starts, wait_for


@pytest.fixture(scope="module")
def runs(toy_definition, tmp_path_factory) -> Runs:
    return Runs(toy_definition, tmp_path_factory.mktemp("runs"))


def test_a_run_resumed_after_sigterm_equals_an_uninterrupted_one(runs, command_line, request):
    """In the test's own process, to be fast."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or a late signal would end pytest
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, previous))
    out = runs.folder / "fast"
    options = "DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 2 SOLVER.IMS_PER_BATCH_UNLABELED 2".split()
    assert command_line(*runs.arguments("fast_uninterrupted", *options)).returncode == 0

    def interrupt():
        while last_checkpoint(out) < 3:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    result = command_line(*runs.arguments("fast", *options))
    assert result.returncode == 143 and re.search(r"SIGTERM after iteration \d+; \S+ is saved", result.stderr)
    assert command_line(*runs.arguments("fast", "--resume", *options)).returncode == 0
    assert_same(runs.folder / "fast_uninterrupted", out, [3, 7])


@pytest.mark.slow
@pytest.mark.parametrize("ranks, workers, number", [
    (2, 2, signal.SIGKILL), (1, 2, signal.SIGTERM), (2, 0, signal.SIGINT)
])  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one(runs, ranks, workers, number):
    name = f"{number.name}_{ranks}"
    out, options = runs.folder / name, ("DATALOADER.NUM_WORKERS", str(workers))
    if number == signal.SIGINT:  # Equals the run without sharding.
        options += ("SOLVER.SHARD_OPTIMIZER", "True")
    run = runs.start(name, ranks, *options)
    wait_for(run, lambda: last_checkpoint(out) == 3)
    # To the whole process group, data workers too, as schedulers and terminals do.
    os.killpg(run.pid, number)
    status = run.wait(100)
    assert not (out / "model_final.pth").exists()
    start = 4
    if number != signal.SIGKILL:
        assert status == 128 + number, runs.log(name)
        found = re.search(rf"train_net.py: {number.name} after iteration (\d+); (\S+) is saved", runs.log(name))
        start = int(found[1]) + 1
        assert (out / "last_checkpoint").read_text() == found[2] and "Traceback" not in runs.log(name)
    runs.finish(name, runs.start(name, ranks, "--resume", *options))
    assert starts(out) == [0, start]
    assert_same(runs.uninterrupted(ranks), out, [3, 7])


def children(run: subprocess.Popen) -> list[int]:
    return [int(child) for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]


needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="finds the ranks of a launcher in /proc")


@pytest.mark.slow
@needs_proc
def test_torchrun_ends_all_ranks_when_one_dies_and_restarts_them(runs):
    out = runs.folder / "torchrun"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    run = runs.start("torchrun", 2, "--resume", launcher=launcher)
    wait_for(run, lambda: last_checkpoint(out) == 3)
    ranks = children(run)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert run.wait(300) == 0, runs.log("torchrun")
    assert starts(out) == [0, 4]
    assert_same(runs.uninterrupted(2), out, [3, 7])


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", ["torchrun", "num_machines"])
def test_a_lost_machine_of_two_is_replaced(runs, name, monkeypatch):
    """Two launchers with two ranks each, as docs/training.md starts them; one is killed with its ranks."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    run_name = f"machines_{name}"
    out = runs.folder / run_name
    torchrun = f"""
        -m torch.distributed.run --nnodes 2 --nproc-per-node 2 --max-restarts 1
        --rdzv-backend c10d --rdzv-endpoint {address} --rdzv-id {run_name}
    """.split()

    def start(machine: int) -> subprocess.Popen:
        if name == "torchrun":
            return runs.start(run_name, 2, "--resume", launcher=(*torchrun,))
        machines = ("--num-machines=2", f"--machine-rank={machine}", f"--dist-url=tcp://{address}")
        return runs.start(run_name, 2, "--resume", *machines)

    def hosts() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", int(address.split(":")[1]))) == 0

    first = start(0)
    wait_for(first, hosts)  # The launcher that comes first has the store, which must not be lost.
    lost = start(1)
    wait_for(first, lambda: last_checkpoint(out) == 3)
    for process in (lost.pid, *children(lost)):
        os.kill(process, signal.SIGKILL)
    lost.wait()
    if name == "num_machines":  # Nothing restarts the ranks of the other machine.
        assert first.wait(100) == 1, runs.log(run_name)
        first = start(0)
    assert [run.wait(300) for run in (first, start(1))] == [0, 0], runs.log(run_name)
    assert starts(out) == [0, 4]
    assert_same(runs.uninterrupted(4), out, [3, 7])

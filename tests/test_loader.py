"""The streams: the same whatever the workers, the processes and the interruptions; errors arrive as one sentence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPO, TINY
from data_files import small_config, write_dataset, write_definition, write_image, write_label

from rc2l_d2.data import build_test_loader, build_train_loader, dead_worker, load_definition, register_definition
from rc2l_d2.data.loading import loader as loader_module
from rc2l_d2.data.loading.loader import StepSampler, share
from rc2l_d2.errors import InputError
from rc2l_d2.host import comm


@pytest.fixture
def name(tmp_path):
    content = write_dataset(tmp_path / "data")
    register_definition(write_definition(tmp_path / "set.yaml", content))
    return content["name"]


def _take(cfg, steps, start_iter=0):
    return list(islice(build_train_loader(cfg, start_iter=start_iter), steps))


def _assert_same(first, second):
    assert len(first) == len(second)
    for steps in zip(first, second, strict=True):
        for samples in zip(*steps, strict=True):
            for one, other in zip(*samples, strict=True):
                assert one.keys() == other.keys()
                for key, value in one.items():
                    assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]


def test_batches(name):
    for labeled, unlabeled in _take(small_config(name), 3):
        assert len(labeled) == 2 and len(unlabeled) == 4
        assert all(set(sample) == {"file_name", "image", "sem_seg"} for sample in labeled)
        assert all(set(sample) == {"file_name", "image", "strong", "inside"} for sample in unlabeled)


def test_without_unlabeled_data(name):
    cfg = small_config(name)
    cfg.DATASETS.UNLABELED = ()
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    assert all(len(labeled) == 2 and unlabeled == [] for labeled, unlabeled in _take(cfg, 3))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(name, workers):
    cfg = small_config(name)
    expected = _take(cfg, 6)
    cfg.DATALOADER.NUM_WORKERS = workers
    _assert_same(_take(cfg, 6), expected)
    # Nor does the place from which a run is resumed.
    _assert_same(_take(cfg, 3, start_iter=3), expected[3:])


def _files(steps):
    return [[sample["file_name"] for sample in stream] for step in steps for stream in step]


def test_the_order_depends_on_the_seed_alone(name):
    cfg = small_config(name)
    expected = _files(_take(cfg, 6))
    # Neither on what else was drawn nor on how the images are cut.
    torch.manual_seed(5)
    np.random.seed(5)
    cfg.INPUT.CROP.SIZE = [8, 8]
    cfg.INPUT.COLOR_AUG_SSD = True
    assert _files(_take(cfg, 6)) == expected
    cfg.SEED += 1
    assert _files(_take(cfg, 6)) != expected


def test_resuming_is_continuing(name):
    cfg = small_config(name)
    _assert_same(_take(cfg, 4, start_iter=5), _take(cfg, 9)[5:])


def test_seeds_differ_and_torch_generator_is_left_alone(name):
    cfg = small_config(name)
    state = torch.get_rng_state()
    first = _take(cfg, 2)
    assert torch.equal(state, torch.get_rng_state())
    cfg.SEED = 8
    second = _take(cfg, 2)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first[0][0], second[0][0], strict=True))


def test_an_image_is_seen_anew_in_each_epoch(name):
    cfg = small_config(name)  # 4 labelled images, 2 a step: an epoch is two steps.
    epochs = [{}, {}]
    for step, (labeled, _) in enumerate(_take(cfg, 4)):
        for sample in labeled:
            epochs[step // 2][sample["file_name"]] = sample["image"]
    assert epochs[0].keys() == epochs[1].keys() and len(epochs[0]) == 4
    assert any((epochs[0][file] != epochs[1][file]).any() for file in epochs[0])


def test_each_epoch_holds_each_image_once_in_another_order():
    keys = [key for step in islice(StepSampler([7], [2], seed=3), 14) for key in step]
    assert [position for _, position, _ in keys] == list(range(28))
    epochs = [[index for _, _, index in keys[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_streams_have_orders_of_their_own():
    step = next(iter(StepSampler([20, 20], [20, 20], seed=0)))
    orders = [[index for stream, _, index in step if stream == wanted] for wanted in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_step_of_one_process(world_size):
    sizes, batch_sizes = [8, 12], [4, 8]
    alone = list(islice(StepSampler(sizes, batch_sizes, seed=5), 6))
    shares = [list(islice(StepSampler(sizes, batch_sizes, 5, 0, rank, world_size), 6)) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        keys = [key for part in shares for key in part[step]]
        assert len(keys) == len(set(keys)) and sorted(keys) == sorted(expected)
    # Disjoint within an epoch: the labelled stream's first is steps 0 and 1.
    seen = [{index for step in part[:2] for stream, _, index in step if stream == 0} for part in shares]
    assert sum(map(len, seen)) == 8 and set.union(*seen) == set(range(8))


def test_the_samples_of_two_processes_are_disjoint_and_complete(name, monkeypatch):
    """The loaders of both ranks in one process: what each of them reads, not what its sampler says."""
    cfg = small_config(name)
    cfg.DATASETS.TRAIN = (f"{name}_train",)  # 10 images and 2 a step, 6 and 2 a step: epochs of 5 and of 3 steps.
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 2
    alone = _take(cfg, 15)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(_take(cfg, 15))
    for stream, epoch in ((0, 5), (1, 3)):
        for start in range(0, 15, epoch):
            files = [[s["file_name"] for step in steps[start : start + epoch] for s in step[stream]] for steps in ranks]
            whole = {s["file_name"] for step in alone[start : start + epoch] for s in step[stream]}
            assert [len(files[0]), len(files[1])] == [epoch, epoch]
            assert not set(files[0]) & set(files[1]) and set(files[0]) | set(files[1]) == whole
            assert len(whole) == 2 * epoch
    # Each step holds the very samples that one process alone would have.
    for step, first, second in zip(alone, *ranks, strict=True):
        for samples, one, other in zip(step, first, second, strict=True):
            _assert_same([(samples,)], [([one[0], other[0]],)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_label_is_one_sentence_whoever_meets_it(name, tmp_path, workers):
    for file in (tmp_path / "data/labels").iterdir():
        write_label(file, torch.full((24, 32), 9, dtype=torch.uint8).numpy())
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(InputError) as caught:
        _take(cfg, 1)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and ": 9; correct" in message
    assert "\n" not in message and "Traceback" not in message


class FailsAt:
    """A mapper with a bug that shows with one file."""

    def __init__(self, mapper, file: str):
        self.mapper, self.file = mapper, file

    def __call__(self, entry, *rng):
        if entry["file_name"].endswith(self.file):
            raise KeyError("a bug")
        return self.mapper(entry, *rng)


@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_names_its_file_and_keeps_its_traceback(name, workers):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, f"{name}_val")
    loader.loader.dataset.mapper = FailsAt(loader.loader.dataset.mapper, "val_001.png")
    with pytest.raises(RuntimeError, match=r"KeyError while \S*/val_001\.png, \S*/labels/val_001\.png was") as caught:
        list(loader)
    assert 'raise KeyError("a bug")' in "".join(traceback.format_exception(caught.value))
    assert dead_worker(caught.value) is None


def test_what_was_read_is_forgotten_however_it_ended(monkeypatch):
    monkeypatch.setattr(loader_module, "get_worker_info", lambda: SimpleNamespace(id=0))
    readers = loader_module._Readers(1)
    with pytest.raises(ZeroDivisionError), readers.reading("a.png"):
        assert readers.file_of(os.getpid()) == "a.png"
        raise ZeroDivisionError
    assert readers.file_of(os.getpid()) is None


def test_bad_batch_sizes_and_empty_parts(name, tmp_path):
    cfg = small_config(name)
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    with pytest.raises(InputError, match=r"SOLVER.IMS_PER_BATCH_UNLABELED is 0"):
        build_train_loader(cfg)
    (tmp_path / "data/train.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no image: the list \S*train\.txt is empty"):
        build_train_loader(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_shows_each_image_once_in_order(name, workers):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, f"{name}_val")
    assert len(loader) == 3
    for _ in range(2):
        assert [[sample["image_id"] for sample in batch] for batch in loader] == [["val_000"], ["val_001"], ["val_002"]]


def test_test_loader_passes_on_what_is_wrong(name, tmp_path):
    cfg = small_config(name)
    (tmp_path / "data/images/val_001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"val_001\.png: the image file is empty"):
        list(build_test_loader(cfg, f"{name}_val"))


@pytest.mark.parametrize(("count", "world_size"), [(10, 3), (2, 4), (0, 2), (101, 8)])
def test_shares_are_contiguous_even_and_complete(count, world_size):
    shares = [range(*share(count, rank, world_size)) for rank in range(world_size)]
    assert [index for part in shares for index in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class KilledAt:
    """A mapper whose process is killed at one file."""

    def __init__(self, mapper, file: str):
        self.mapper, self.file = mapper, file

    def __call__(self, entry, *rng):
        if entry["file_name"] == self.file:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.mapper(entry, *rng)


def lose_a_worker(definition: str, when: str) -> None:
    """Read with two workers, one of which is killed; print what is told of it."""
    register_definition(definition)
    cfg = small_config(load_definition(definition).name)
    cfg.DATALOADER.NUM_WORKERS = 2
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0]) if when == "test" else build_train_loader(cfg)
    data = loader.loader.dataset
    if when == "test":
        data.mapper = KilledAt(data.mapper, data.entries[1]["file_name"])
    elif when == "train":
        data.mappers[1] = KilledAt(data.mappers[1], data.entries[1][3]["file_name"])
    try:
        for _ in islice(loader, 30):
            if when == "between" and (workers := _data_workers(os.getpid())):
                time.sleep(0.5)  # The workers have read ahead and wait.
                os.kill(workers[0], signal.SIGKILL)
                when = "done"
    except RuntimeError as error:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(dead_worker(error))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    ("when", "where"),
    [
        ("train", "while it was reading {folder}/images/train_0..\\.png"),
        ("test", "while it was reading {folder}/images/val_001\\.png"),
        ("between", "between two files"),
    ],
)
def test_a_worker_that_dies_is_told_with_its_file(tmp_path, when, where):
    # In a process of its own: torch may raise what it has to say of the worker at any place from now on.
    write_definition(tmp_path / "set.yaml", write_dataset(tmp_path / "data"))
    program = f"import test_loader; test_loader.lose_a_worker({str(tmp_path / 'set.yaml')!r}, {when!r})"
    environment = {**os.environ, "PYTHONPATH": f"{REPO / 'tests'}{os.pathsep}{REPO}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    killed = "(is killed by signal: Killed|exited unexpectedly)"
    where = where.format(folder=re.escape(str(tmp_path / "data")))
    assert re.fullmatch(rf"A data worker \(process \d+\) {killed} {where}; look at .*\.\n", result.stdout), result


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("DataLoader"), KeyError(1)])
def test_other_errors_are_not_taken_for_dead_workers(error):
    assert dead_worker(error) is None


def _data_workers(process: int) -> list[int]:
    """The processes that ``process`` forked, by its own command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            same = (entry / "cmdline").read_bytes() == Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if parent == process and same:
            found.append(int(entry.name))
    return found


def _is_reading(worker: int) -> bool:
    """Whether a worker computes, after 0.3 s of doing so: where images are large, that is decoding one."""
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "R" and int(fields[11]) > 0.3 * os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
def test_killing_a_worker_of_a_real_run_ends_in_one_sentence(tmp_path):
    content = write_dataset(tmp_path / "data", train=4, val=1, size=(64, 64))
    # Images so large that workers are always reading.
    large = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3)).astype(np.uint8)
    write_image(tmp_path / "data/images/large/0.png", large)
    for number in (1, 2):
        shutil.copy(tmp_path / "data/images/large/0.png", tmp_path / f"data/images/large/{number}.png")
    content["parts"]["large"] = {"folder": "large"}
    write_definition(tmp_path / "set.yaml", content)
    options = [
        *TINY, "DATASETS.DEFINITIONS", f"('{tmp_path}/set.yaml',)", "DATASETS.TRAIN", f"('{content['name']}_train',)",
        "DATASETS.UNLABELED", f"('{content['name']}_large',)", "DATASETS.TEST", "()", "OUTPUT_DIR", f"{tmp_path}/out",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_ITER", "1000",
        "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "900",
    ]  # fmt: skip
    command = [sys.executable, "train_net.py", "--config-file", "configs/toy/rc2l_R18.yaml", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            deadline = time.monotonic() + 120
            while not (busy := [worker for worker in _data_workers(run.pid) if _is_reading(worker)]):
                assert run.poll() is None and time.monotonic() < deadline, "no worker ever read"
                time.sleep(0.02)
            os.kill(busy[0], signal.SIGKILL)
            _, errors = run.communicate(timeout=120)
        finally:
            run.kill()
    assert run.returncode == 2, errors
    # But for what torch may log of itself.
    (message,) = [line for line in errors.strip().splitlines() if not re.match(r"W\d+ .*torch/", line)]
    assert re.match(
        rf"train_net\.py: A data worker \(process {busy[0]}\) (is killed by signal: Killed|exited unexpectedly) "
        rf"while it was reading {re.escape(str(tmp_path))}/data/images/.*\.png; look at that",
        message,
    ), message

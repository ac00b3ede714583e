"""The streams are the same for any number of workers, ranks and interruptions; errors are one sentence."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from data_files import small_config, write_dataset, write_definition, write_label

from rc2l_d2.commands.cli import one_sentence_errors
from rc2l_d2.data import build_test_loader, build_train_loader, dead_worker, load_definition, register_definition
from rc2l_d2.data.loading import loader
from rc2l_d2.data.loading.loader import StepSampler, rank_range
from rc2l_d2.errors import InputError
from rc2l_d2.host import comm

DEAD = r"The data worker with process id \d+ (is killed by signal: Killed|exited unexpectedly); check whether .*\."


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


def _files(steps):
    return [[sample["file_name"] for sample in stream] for step in steps for stream in step]


def test_batches_with_and_without_unlabeled_data(name):
    cfg = small_config(name)
    for labeled, unlabeled in _take(cfg, 3):
        assert len(labeled) == 2 and len(unlabeled) == 4
        assert all(set(sample) == {"file_name", "image", "sem_seg"} for sample in labeled)
        assert all(set(sample) == {"file_name", "image", "strong", "inside"} for sample in unlabeled)
    cfg.DATASETS.UNLABELED = ()
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    assert all(len(labeled) == 2 and unlabeled == [] for labeled, unlabeled in _take(cfg, 3))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux alone")
def test_a_signal_before_a_worker_is_ready_does_not_end_it(name, monkeypatch):
    start = loader._start_worker

    def signalled(worker: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # as by a scheduler that signals the whole group
        start(worker)

    monkeypatch.setattr(loader, "_start_worker", signalled)
    cfg = small_config(name)
    expected = _take(cfg, 2)
    cfg.DATALOADER.NUM_WORKERS = 1
    _assert_same(_take(cfg, 2), expected)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_burn_in_reads_no_unlabelled_image_and_changes_no_other(name, start):
    cfg = small_config(name)
    expected = _take(cfg, 4, start)
    cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS = 2
    expected = [(labeled, unlabeled if step >= 2 else []) for step, (labeled, unlabeled) in enumerate(expected, start)]
    _assert_same(_take(cfg, 4, start), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_resuming_change_nothing(name, workers):
    cfg = small_config(name)
    state = torch.get_rng_state()
    expected = _take(cfg, 6)
    assert torch.equal(state, torch.get_rng_state())
    cfg.DATALOADER.NUM_WORKERS = workers
    _assert_same(_take(cfg, 6), expected)
    _assert_same(_take(cfg, 3, start_iter=3), expected[3:])


def test_the_order_depends_on_the_seed_alone(name):
    cfg = small_config(name)
    expected = _take(cfg, 6)
    torch.manual_seed(5)
    np.random.seed(5)
    _assert_same(_take(cfg, 6), expected)
    cfg.INPUT.CROP.SIZE = [8, 8]
    cfg.INPUT.COLOR_AUG_SSD = True
    assert _files(_take(cfg, 6)) == _files(expected)
    cfg.SEED += 1
    assert _files(_take(cfg, 6)) != _files(expected)


def test_each_epoch_augments_an_image_anew(name):
    epochs = [{}, {}]
    for step, (labeled, _) in enumerate(_take(small_config(name), 4)):  # 4 labelled images, 2 a step
        epochs[step // 2] |= {sample["file_name"]: sample["image"] for sample in labeled}
    assert epochs[0].keys() == epochs[1].keys() and len(epochs[0]) == 4
    assert any((epochs[0][file] != epochs[1][file]).any() for file in epochs[0])


def test_each_epoch_holds_each_image_once_in_an_order_of_its_own_stream():
    keys = [key for step in islice(StepSampler([7, 7], [2, 2], seed=3), 14) for key in step]
    orders = []
    for wanted in (0, 1):
        assert [position for stream, position, _ in keys if stream == wanted] == list(range(28))
        indices = [index for stream, _, index in keys if stream == wanted]
        orders += [tuple(indices[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(order) == list(range(7)) for order in orders) and len(set(orders)) == 8


def test_each_step_of_two_ranks_holds_the_samples_of_one(name, monkeypatch):
    """The loaders of both ranks in one process: the samples themselves, not the sampler's keys."""
    cfg = small_config(name)
    alone = _take(cfg, 6)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(_take(cfg, 6))
    for step, first, second in zip(alone, *ranks, strict=True):
        for samples, one, other in zip(step, first, second, strict=True):
            _assert_same([(samples[0::2], samples[1::2])], [(one, other)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_label_is_one_sentence_with_any_number_of_workers(name, tmp_path, workers):
    for file in (tmp_path / "data/labels").iterdir():
        write_label(file, np.full((24, 32), 9, np.uint8))
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(InputError) as caught:
        _take(cfg, 1)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and ": 9; correct" in message
    assert "\n" not in message and "Traceback" not in message


class FailsAt:
    """A mapper that fails with one file: ``fail`` is called there."""

    def __init__(self, mapper, file: str, fail):
        self.mapper, self.file, self.fail = mapper, file, fail

    def __call__(self, entry, *rng):
        if entry["file_name"].endswith(self.file):
            self.fail()
        return self.mapper(entry, *rng)


def _no_room(*_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


@pytest.mark.parametrize("loader", ["train", "test"])
def test_a_lack_of_shared_memory_is_one_sentence(name, monkeypatch, loader):
    """torch's own error, which a full /dev/shm raises in the worker."""
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", _no_room)
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = 1
    batches = build_train_loader(cfg) if loader == "train" else build_test_loader(cfg, f"{name}_val")
    with pytest.raises(
        InputError, match=r"shared memory \(unable .*No space.*\(28\)\); give /dev/shm more room .*WORKERS 0"
    ):
        next(iter(batches))
    cfg.DATALOADER.NUM_WORKERS = 0
    assert next(iter(build_test_loader(cfg, f"{name}_val")))


class Unsendable:
    """An object that the thread of a worker's queue fails to send."""

    def __reduce__(self):
        raise OSError("Too many open files")


def test_a_batch_that_cannot_be_sent_ends_the_worker(name, capfd):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_test_loader(cfg, f"{name}_val")
    loader.loader.dataset.mapper = lambda entry: {"image": Unsendable()}
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(RuntimeError) as caught:
            next(iter(loader))
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert re.fullmatch(DEAD, dead_worker(caught.value))
    assert "A data worker cannot send a batch: Too many open files" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_names_its_file_and_keeps_its_traceback(name, workers):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, f"{name}_val")
    loader.loader.dataset.mapper = FailsAt(loader.loader.dataset.mapper, "val_001.png", {}.popitem)
    with pytest.raises(RuntimeError, match=r"KeyError while reading \S*/val_001\.png, \S*/labels/val_001") as caught:
        list(loader)
    assert "self.fail()" in "".join(traceback.format_exception(caught.value))
    assert dead_worker(caught.value) is None


def test_a_batch_without_unlabelled_images_is_refused(name):
    cfg = small_config(name)
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    with pytest.raises(InputError, match=r"SOLVER.IMS_PER_BATCH_UNLABELED is 0"):
        build_train_loader(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_yields_each_image_once_in_order(name, tmp_path, workers):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, f"{name}_val")
    assert len(loader) == 3
    for _ in range(2):
        assert [[sample["image_id"] for sample in batch] for batch in loader] == [["val_000"], ["val_001"], ["val_002"]]
    (tmp_path / "data/images/val_001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"val_001\.png: the image file is empty"):
        list(loader)


@pytest.mark.parametrize(("count", "world_size"), [(10, 3), (2, 4), (0, 2), (101, 8)])
def test_ranges_of_ranks_are_even_and_complete(count, world_size):
    ranges = [rank_range(count, rank, world_size) for rank in range(world_size)]
    assert [index for indices in ranges for index in indices] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_errors_of_dead_workers(capsys):
    for error in (RuntimeError("CUDA out of memory"), ValueError("DataLoader"), KeyError(1)):
        assert dead_worker(error) is None
    for message in (
        "DataLoader worker (pid 71) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 71, 72) exited unexpectedly",
    ):
        assert re.fullmatch(DEAD.replace(r"\d+", "71"), dead_worker(RuntimeError(message)))
        with pytest.raises(SystemExit) as ended, one_sentence_errors():
            raise RuntimeError(message)
        assert ended.value.code == 2 and re.search(rf": {DEAD}\n$", capsys.readouterr().err)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose_a_worker(definition: str, when: str) -> None:
    """Read with two workers, one of which is killed; print the sentence about it."""
    register_definition(definition)
    cfg = small_config(load_definition(definition).name)
    cfg.DATALOADER.NUM_WORKERS = 2
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0]) if when == "test" else build_train_loader(cfg)
    data = loader.loader.dataset
    if when == "test":
        data.mapper = FailsAt(data.mapper, data.entries[1]["file_name"], _kill)
    elif when == "train":
        data.mappers[1] = FailsAt(data.mappers[1], data.entries[1][3]["file_name"], _kill)
    try:
        for _ in islice(loader, 30):
            if when == "between":
                time.sleep(0.5)  # The workers have read ahead and wait.
                multiprocessing.active_children()[0].kill()
                when = "done"
    except RuntimeError as error:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(dead_worker(error))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize("when", ["train", "test", "between"])
def test_a_worker_that_dies_is_one_sentence(tmp_path, when):
    # In a process of its own: from now on, torch may raise its error about the worker anywhere.
    write_definition(tmp_path / "set.yaml", write_dataset(tmp_path / "data"))
    program = f"import test_loader; test_loader.lose_a_worker({str(tmp_path / 'set.yaml')!r}, {when!r})"
    environment = {**os.environ, "PYTHONPATH": f"{REPO / 'tests'}{os.pathsep}{REPO}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(rf"{DEAD}\n", result.stdout), result


def test_streams_have_random_numbers_of_their_own():
    draw = lambda entry, rng: {"number": rng.random()}  # noqa: E731
    entries = [{"file_name": "a"}]
    dataset = loader._TrainDataset([entries, entries], [draw, draw], seed=1)
    numbers = {dataset[stream, position, 0][1]["number"] for stream in range(2) for position in range(3)}
    assert len(numbers) == 6 and dataset[1, 2, 0] == dataset[1, 2, 0]

"""The two training streams and the test loader.

A training stream is a pure function of the position in it: position p is image ``permutation(seed, stream, epoch)[p %
n]`` with epoch = p // n, and its augmentation is drawn from ``(seed, stream, p)``. So neither the number of workers nor
a resumed run changes what is seen, and with more processes each step still holds the same images.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ...errors import InputError
from ...host import CfgNode, comm
from ..datasets.catalog import load_dataset, stream_entries
from .mappers import LabeledMapper, TestMapper, UnlabeledMapper

logger = logging.getLogger(__name__)

LABELED, UNLABELED = 0, 1
# What a generator is for: the two uses must not share a seed.
_ORDER, _AUGMENTATION = 0, 1
_LONGEST_NAME = 4096
_ATTEMPTS = 10  # Neighbours in the list that are tried in the place of an image that cannot be used.
_WORKER_END = 2.0  # Seconds in which a killed process is gone.
Key = tuple[int, int, int]  # stream, position, index


class StepSampler:
    """Endless: for each step the (stream, position, index) of this process's samples, stream by stream.

    Step i of a stream with batch size b (over all processes) holds the positions i * b to (i + 1) * b - 1; of these,
    process r of w takes every w-th, from the r-th.

    Args:
        sizes: images in each stream.
        batch_sizes: images a step of each stream, over all processes; divisible by ``world_size``.
        seed: not negative.
        start_iter: the first step.
        rank, world_size: this process, and how many there are.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_sizes: Sequence[int],
        seed: int,
        start_iter: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sizes, self.batch_sizes, self.seed = tuple(sizes), tuple(batch_sizes), seed
        self.start_iter, self.rank, self.world_size = start_iter, rank, world_size

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, tuple[int, np.ndarray]] = {}  # stream -> its current epoch and order
        step = self.start_iter
        while True:
            keys = []
            for stream, (size, batch_size) in enumerate(zip(self.sizes, self.batch_sizes, strict=True)):
                for position in range(step * batch_size + self.rank, (step + 1) * batch_size, self.world_size):
                    epoch = position // size
                    if stream not in orders or orders[stream][0] != epoch:
                        orders[stream] = epoch, epoch_order(self.seed, stream, epoch, size)
                    keys.append((stream, position, int(orders[stream][1][position % size])))
            yield keys
            step += 1


def epoch_order(seed: int, stream: int, epoch: int, size: int) -> np.ndarray:
    """The order (size,) of a stream's images in one epoch."""
    return np.random.default_rng([seed, stream, _ORDER, epoch]).permutation(size)


class TrainLoader:
    """Endless iterable of (labelled samples, unlabelled samples), two lists of dicts; always from ``start_iter`` on."""

    def __init__(
        self, streams: _Streams, sampler: StepSampler, num_workers: int, pin_memory: bool, max_bad_share: float
    ):
        self.sampler = sampler
        self.bad_files = BadFiles(sampler.sizes, max_bad_share)
        # Not persistent_workers: the iterator has no end, so its workers live as long as it does, and torch's reference
        # to it would leave them to the garbage collector, which takes five seconds for each.
        self.loader = _data_loader(streams, num_workers, pin_memory=pin_memory, batch_sampler=sampler)

    @property
    def start_iter(self) -> int:
        """The step that iteration begins with."""
        return self.sampler.start_iter

    @start_iter.setter
    def start_iter(self, step: int) -> None:
        self.sampler.start_iter = step

    def __iter__(self) -> Iterator[tuple[list[dict], list[dict]]]:
        for batch in _batches(self.loader):
            labeled: list[dict] = []
            unlabeled: list[dict] = []
            for stream, sample, bad in batch:
                self.bad_files.add(stream, bad)
                (labeled if stream == LABELED else unlabeled).append(_or_raise(sample))
            yield labeled, unlabeled


class TestLoader:
    """Iterable with a length of lists of one test sample: this process's share of a data set, in order."""

    __test__ = False  # pytest takes every class called Test* for a test.

    def __init__(self, entries: Sequence[dict], indices: Sequence[int], mapper: TestMapper, num_workers: int):
        share = _TestShare(entries, indices, mapper, _Readers(num_workers))
        self.loader = _data_loader(share, num_workers, batch_size=1)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in _batches(self.loader):
            yield [_or_raise(sample) for sample in batch]


def build_train_loader(cfg: CfgNode, use_unlabeled: bool = True, start_iter: int = 0) -> TrainLoader:
    """The labelled and the unlabelled stream of ``cfg.DATASETS.TRAIN`` and ``.UNLABELED``.

    Args:
        cfg: SOLVER.IMS_PER_BATCH and SOLVER.IMS_PER_BATCH_UNLABELED count over all processes.
        use_unlabeled: False leaves UNLABELED alone, as for a supervised model.
        start_iter: the step to begin with, for a resumed run; also settable later (``loader.start_iter``).

    Returns:
        An endless iterable of (labelled, unlabelled) lists of samples; the second is empty without UNLABELED.

    Raises:
        InputError: data sets or sizes cannot be used; while iterating: more than DATALOADER.MAX_BAD_SHARE of a stream's
            images cannot be. Up to then the image that follows in the list takes the place of one that cannot.
    """
    entries = [_entries(cfg, "TRAIN")]
    batch_sizes = [_divisible(cfg.SOLVER.IMS_PER_BATCH, "SOLVER.IMS_PER_BATCH")]
    mappers: list[Callable[[dict, np.random.Generator], dict]] = [LabeledMapper(cfg)]
    if use_unlabeled and cfg.DATASETS.UNLABELED:
        entries.append(_entries(cfg, "UNLABELED"))
        batch_sizes.append(_divisible(cfg.SOLVER.IMS_PER_BATCH_UNLABELED, "SOLVER.IMS_PER_BATCH_UNLABELED"))
        mappers.append(UnlabeledMapper(cfg))
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = StepSampler(
        [len(stream) for stream in entries], batch_sizes, seed, start_iter, comm.get_rank(), comm.get_world_size()
    )
    pin_memory = torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda")
    num_workers = cfg.DATALOADER.NUM_WORKERS
    streams = _Streams(entries, mappers, seed, _Readers(num_workers))
    return TrainLoader(streams, sampler, num_workers, pin_memory, cfg.DATALOADER.MAX_BAD_SHARE)


def build_test_loader(cfg: CfgNode, name: str) -> TestLoader:
    """Each image of a registered data set once, in order; processes take contiguous shares.

    Raises:
        InputError: the data set cannot be used; while iterating: an image cannot be read.
    """
    entries = load_dataset(name, labels="all", key="DATASETS.TEST")
    first, last = share(len(entries), comm.get_rank(), comm.get_world_size())
    return TestLoader(entries, range(first, last), TestMapper(cfg), cfg.DATALOADER.NUM_WORKERS)


def share(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and last + 1 of the contiguous share of ``count`` things that process ``rank`` takes."""
    return count * rank // world_size, count * (rank + 1) // world_size


@dataclass(frozen=True)
class _Failure:
    """A user's mistake met in a worker: a value, because torch would wrap an exception in the worker's traceback."""

    message: str


class _Readers:
    """What each worker process is reading, in memory that all processes share and that outlives a worker."""

    alive: weakref.WeakSet[_Readers] = weakref.WeakSet()

    def __init__(self, num_workers: int):
        # A row a worker: its process id, and the length and bytes of the file's name.
        self._rows = torch.zeros(num_workers, 2, dtype=torch.int64).share_memory_()
        self._names = torch.zeros(num_workers, _LONGEST_NAME, dtype=torch.uint8).share_memory_()
        _Readers.alive.add(self)

    @contextmanager
    def reading(self, file: str) -> Iterator[None]:
        """Note ``file`` as what this process, if it is a worker, is reading."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        name = file.encode("utf-8", "surrogateescape")[:_LONGEST_NAME]
        self._names[worker.id, : len(name)] = torch.frombuffer(bytearray(name), dtype=torch.uint8)
        self._rows[worker.id] = torch.tensor([os.getpid(), len(name)])
        try:
            yield
        finally:
            self._rows[worker.id] = 0

    def file_of(self, process: int) -> str | None:
        """The file that a process was reading, None where it is no worker or was not reading."""
        for (reader, length), name in zip(self._rows.tolist(), self._names, strict=True):
            if reader == process:
                return name[:length].numpy().tobytes().decode("utf-8", "surrogateescape")
        return None


def dead_worker(error: BaseException) -> str | None:
    """One sentence on a worker that was killed or crashed, with the file it was reading; None for any other error.

    Torch raises a RuntimeError for it, from wherever the main thread is at that time.
    """
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)", str(error))
    if not found:
        return None
    process, fate = int(found[1]), found[2].split(". ")[0].rstrip(". ")
    files = [file for readers in _Readers.alive if (file := readers.file_of(process))]
    reading = f"while it was reading {files[0]}" if files else "between two files"
    return (
        f"A data worker (process {process}) {fate} {reading}; look at that, and whether the machine ran out of memory "
        f"(fewer DATALOADER.NUM_WORKERS need less)."
    )


class BadFiles:
    """The images of each stream that could not be used; told once each, and borne up to a share of the stream.

    Of this process, since its start: a resumed run counts anew.

    Args:
        sizes: images in each stream.
        max_share: of a stream's images.
    """

    def __init__(self, sizes: Sequence[int], max_share: float):
        self.limits = [int(size * max_share) for size in sizes]
        self.sizes = sizes
        self.found: list[dict[str, str]] = [{} for _ in sizes]

    def add(self, stream: int, bad: dict[str, str]) -> None:
        """Take note of files with what is wrong with each.

        Raises:
            InputError: they are too many.
        """
        found, limit, size = self.found[stream], self.limits[stream], self.sizes[stream]
        for file, problem in bad.items():
            if file in found:
                continue
            found[file] = problem
            if len(found) > limit:
                beyond = f" {len(found)} of {size} images are as bad, more than DATALOADER.MAX_BAD_SHARE admits."
                raise InputError(problem + (beyond if limit else ""))
            logger.warning("%s Another image takes its place (%d of %d so far).", problem, len(found), size)


class _Streams(Dataset):
    """(stream, position, index) -> (stream, sample, what was wrong with the files whose place it takes)."""

    def __init__(self, entries: list[Sequence[dict]], mappers: list[Callable], seed: int, readers: _Readers):
        self.entries, self.mappers, self.seed, self.readers = entries, mappers, seed, readers

    def __getitem__(self, key: Key) -> tuple[int, dict | _Failure, dict[str, str]]:
        stream, position, index = key
        entries, bad = self.entries[stream], {}
        for attempt in range(min(_ATTEMPTS, len(entries))):
            entry = entries[(index + attempt) % len(entries)]
            rng = np.random.default_rng([self.seed, stream, _AUGMENTATION, position])
            with self.readers.reading(entry["file_name"]):
                sample = _mapped(lambda: self.mappers[stream](entry, rng), entry)  # noqa: B023 (called at once)
            if not isinstance(sample, _Failure):
                break
            bad[entry["file_name"]] = sample.message
        return stream, sample, bad


class _TestShare(Dataset):
    """Place in ``indices`` -> sample."""

    def __init__(self, entries: Sequence[dict], indices: Sequence[int], mapper: TestMapper, readers: _Readers):
        self.entries, self.indices, self.mapper, self.readers = entries, indices, mapper, readers

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict | _Failure:
        entry = self.entries[self.indices[place]]
        with self.readers.reading(entry["file_name"]):
            return _mapped(lambda: self.mapper(entry), entry)


def _mapped(read: Callable[[], dict], entry: dict) -> dict | _Failure:
    try:
        return read()
    except InputError as error:
        return _Failure(str(error))
    except Exception as error:
        # Ours or a library's mistake: with the traceback, and the file that brought it about.
        files = ", ".join(entry[key] for key in ("file_name", "sem_seg_file_name") if key in entry)
        raise RuntimeError(f"{type(error).__name__} while {files} was made a sample: {error}") from error


def _or_raise(sample: dict | _Failure) -> dict:
    if isinstance(sample, _Failure):
        raise InputError(sample.message)
    return sample


def _data_loader(dataset: Dataset, num_workers: int, **kwargs) -> DataLoader:
    # collate_fn=list: a batch is a list of samples. A generator of its own keeps the loader from advancing torch's
    # global one, which would make a run depend on how often it was evaluated or resumed. Workers are forked, on
    # Linux: the processes of a run, themselves spawned, would spawn theirs, which import torch at each evaluation.
    forks = num_workers > 0 and sys.platform == "linux"
    return DataLoader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context="fork" if forks else None,
        collate_fn=list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
        **kwargs,
    )


def _batches(loader: DataLoader) -> Iterator[list]:
    try:
        yield from loader
    except (ConnectionError, EOFError):
        # A worker that is killed cuts its connection a moment before torch can know of its end; then torch's signal
        # handler raises the RuntimeError that says which one it was.
        time.sleep(_WORKER_END)
        raise


def _start_worker(worker: int) -> None:
    # Workers are the parallelism; OpenCV's threads inside them only fight over the cores.
    cv2.setNumThreads(0)
    # A signal for the whole group is the training process's to act on, which may need its workers for that: they end
    # when that process says so, and by themselves when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _entries(cfg: CfgNode, stream: str) -> Sequence[dict]:
    entries = stream_entries(cfg, stream)
    if not len(entries):
        raise InputError(
            f"DATASETS.{stream} = {tuple(cfg.DATASETS[stream])} holds no image; name a data set part that has some."
        )
    return entries


def _divisible(batch_size: int, key: str) -> int:
    processes = comm.get_world_size()
    if batch_size < 1 or batch_size % processes:
        raise InputError(
            f"{key} is {batch_size}, which cannot be shared evenly by {processes} process(es); set it to a positive "
            f"multiple of {processes}."
        )
    return batch_size

"""The two training streams and the test loader.

A training stream is a pure function of the position in it: position p is image ``permutation(seed, stream, epoch)[p %
n]`` with epoch = p // n, and its augmentation is seeded with ``(seed, stream, p)``. So neither the number of workers
nor a resume changes the samples, and each step holds the same images on any number of ranks. Only the mapper reads an
entry, which may also be a tile or a member of a tar shard.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...errors import InputError, one_line
from ...host import CfgNode, comm
from ..datasets.catalog import load_dataset, stream_entries
from .mappers import LabeledMapper, TestMapper, UnlabeledMapper

logger = logging.getLogger(__name__)

LABELED, UNLABELED = 0, 1
_ORDER, _AUGMENTATION = 0, 1  # Part of a generator's seed: the two uses must not share one.
_ATTEMPTS = 10  # Images of the list that are tried where one cannot be used, itself included.
_WORKER_END = 2.0  # Seconds until torch knows that a worker was killed.
Key = tuple[int, int, int]  # stream, position, index
Mapper = Callable[..., dict]


@dataclass
class StepSampler:
    """Endless batches of (stream, position, index): the samples of this rank in each step, stream by stream.

    Step i of a stream with global batch size b holds the positions i * b to (i + 1) * b - 1; rank r of w takes every
    w-th of them, starting with the r-th.
    """

    sizes: Sequence[int]  # images in each stream
    batch_sizes: Sequence[int]  # images per step of each stream over all ranks, divisible by world_size
    seed: int  # not negative
    unlabeled_from: int = 0  # step before which the second stream is not read
    start_iter: int = 0  # the first step
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, tuple[int, np.ndarray]] = {}  # stream -> its current epoch and order
        step = self.start_iter
        while True:
            keys = []
            for stream, (size, batch_size) in enumerate(zip(self.sizes, self.batch_sizes, strict=True)):
                if stream == UNLABELED and step < self.unlabeled_from:
                    continue
                for position in range(step * batch_size + self.rank, (step + 1) * batch_size, self.world_size):
                    epoch = position // size
                    if stream not in orders or orders[stream][0] != epoch:
                        rng = np.random.default_rng([self.seed, stream, _ORDER, epoch])
                        orders[stream] = epoch, rng.permutation(size)
                    keys.append((stream, position, int(orders[stream][1][position % size])))
            yield keys
            step += 1


class TrainLoader:
    """Endless iterable of (labelled samples, unlabelled samples), two lists of dicts; always from the first step on.

    Each unusable image is logged once and counted, on this rank since its start: a resumed run counts anew.
    """

    def __init__(
        self, dataset: _TrainDataset, sampler: StepSampler, num_workers: int, pin_memory: bool, max_bad_fraction: float
    ):
        self.sizes, self.max_bad_fraction = sampler.sizes, max_bad_fraction
        self.bad_files: list[set[str]] = [set() for _ in self.sizes]
        # Not persistent_workers: the iterator never ends, so its workers live as long as it does, and torch's reference
        # to it would leave them to the garbage collector, which takes five seconds for each.
        self.loader = _data_loader(dataset, num_workers, pin_memory=pin_memory, batch_sampler=sampler)

    def __iter__(self) -> Iterator[tuple[list[dict], list[dict]]]:
        for batch in _batches(self.loader):
            samples: tuple[list[dict], list[dict]] = ([], [])
            for stream, sample, errors in batch:
                for file, error in errors.items():
                    self._add_bad_file(stream, file, error)
                samples[stream].append(_or_raise(sample))
            yield samples

    def _add_bad_file(self, stream: int, file: str, error: str) -> None:
        files, size = self.bad_files[stream], self.sizes[stream]
        if file in files:
            return
        files.add(file)
        limit = int(size * self.max_bad_fraction)
        if len(files) > limit:
            beyond = f" {len(files)} of {size} images are unusable, more than DATALOADER.MAX_BAD_SHARE allows."
            raise InputError(error + (beyond if limit else ""))
        logger.warning("%s The next image of the list is used instead (%d of %d so far).", error, len(files), size)


def build_whole_image_loader(cfg: CfgNode, stream: str, limit: int) -> Iterator[dict]:
    """Yield samples of whole images of a training stream, prepared as for testing; those of this rank.

    Args:
        cfg: DATASETS, INPUT and DATALOADER.NUM_WORKERS are read.
        stream: "TRAIN" or "UNLABELED".
        limit: of more images than this every n-th is used. Images that cannot be read are left out.

    Raises:
        InputError: the data set cannot be used.
    """
    entries = stream_entries(cfg, stream)
    places = np.linspace(0, len(entries) - 1, min(limit, len(entries))).round().astype(int)
    own = places[rank_range(len(places), comm.get_rank(), comm.get_world_size())]
    for (sample,) in _batches(_data_loader(_TestDataset(entries, own, TestMapper(cfg)), cfg.DATALOADER.NUM_WORKERS)):
        if isinstance(sample, InputError):
            logger.warning("%s", sample)
        else:
            yield sample


class TestLoader:
    """Iterable with a length: lists of one test sample, this rank's contiguous range of a data set in order."""

    __test__ = False  # pytest collects every class named Test*.

    def __init__(self, dataset: _TestDataset, num_workers: int):
        self.loader = _data_loader(dataset, num_workers, batch_size=1)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in _batches(self.loader):
            yield [_or_raise(sample) for sample in batch]


def build_train_loader(cfg: CfgNode, use_unlabeled: bool = True, start_iter: int = 0) -> TrainLoader:
    """Build the labelled and the unlabelled stream of ``cfg.DATASETS.TRAIN`` and ``.UNLABELED``.

    Args:
        cfg: SOLVER.IMS_PER_BATCH and SOLVER.IMS_PER_BATCH_UNLABELED count over all ranks.
        use_unlabeled: False ignores UNLABELED, as for a supervised model; the second list of a batch is then empty, as
            in the steps of burn-in.
        start_iter: the step to begin with, for a resumed run.

    Raises:
        InputError: data sets or sizes cannot be used; while iterating: more than the fraction
            DATALOADER.MAX_BAD_SHARE of a stream's images are unusable. Before that, the next image is used instead.
    """
    streams: list[tuple[str, str, Callable[[CfgNode], Mapper]]] = [("TRAIN", "IMS_PER_BATCH", LabeledMapper)]
    if use_unlabeled and cfg.DATASETS.UNLABELED:
        streams.append(("UNLABELED", "IMS_PER_BATCH_UNLABELED", UnlabeledMapper))
    entries = [stream_entries(cfg, stream) for stream, _, _ in streams]
    mappers = [mapper(cfg) for _, _, mapper in streams]
    ranks = comm.get_world_size()
    check_batch_sizes(cfg, use_unlabeled, ranks)
    batch_sizes = [cfg.SOLVER[key] for _, key, _ in streams]
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    burn_in = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
    sizes = [len(stream) for stream in entries]
    sampler = StepSampler(sizes, batch_sizes, seed, burn_in, start_iter, comm.get_rank(), ranks)
    pin_memory = torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda")
    dataset = _TrainDataset(entries, mappers, seed)
    return TrainLoader(dataset, sampler, cfg.DATALOADER.NUM_WORKERS, pin_memory, cfg.DATALOADER.MAX_BAD_SHARE)


def check_batch_sizes(cfg: CfgNode, use_unlabeled: bool, ranks: int) -> None:
    """Refuse batches that the ranks cannot split evenly.

    Raises:
        InputError: names the key.
    """
    keys = ["IMS_PER_BATCH", *(["IMS_PER_BATCH_UNLABELED"] if use_unlabeled and cfg.DATASETS.UNLABELED else [])]
    for key in keys:
        if cfg.SOLVER[key] < 1 or cfg.SOLVER[key] % ranks:
            raise InputError(
                f"SOLVER.{key} is {cfg.SOLVER[key]}, which {ranks} rank(s) cannot split evenly; set it to a multiple "
                f"of {ranks}."
            )


def build_test_loader(cfg: CfgNode, name: str) -> TestLoader:
    """Build the loader of each image of a registered data set once, in order; ranks take contiguous ranges.

    Raises:
        InputError: the data set cannot be used; while iterating: an image cannot be read.
    """
    entries = load_dataset(name, labels="all", key="DATASETS.TEST")
    indices = rank_range(len(entries), comm.get_rank(), comm.get_world_size())
    return TestLoader(_TestDataset(entries, indices, TestMapper(cfg)), cfg.DATALOADER.NUM_WORKERS)


def rank_range(count: int, rank: int, world_size: int) -> range:
    """Return the contiguous range of ``count`` indices that ``rank`` evaluates."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def dead_worker(error: BaseException) -> str | None:
    """One sentence for torch's RuntimeError about a killed or crashed data worker; None for any other error."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)", str(error))
    if not found:
        return None
    cause = found[2].split(". ")[0].rstrip(". ")
    advice = (
        "give /dev/shm more room (docker run --shm-size 2g) or set DATALOADER.NUM_WORKERS 0"
        if "Bus error" in cause
        else "check whether the machine ran out of memory (fewer DATALOADER.NUM_WORKERS need less) and whether "
        "tools/check_dataset.py --full can read all files"
    )
    return f"The data worker with process id {found[1]} {cause}; {advice}."


@dataclass
class _TrainDataset(Dataset):
    """(stream, position, index) -> (stream, sample or the last error, errors of the unusable images by file)."""

    entries: list[Sequence[dict]]
    mappers: list[Mapper]
    seed: int

    def __getitem__(self, key: Key) -> tuple[int, dict | InputError, dict[str, str]]:
        stream, position, index = key
        entries, errors = self.entries[stream], {}
        for attempt in range(min(_ATTEMPTS, len(entries))):
            entry = entries[(index + attempt) % len(entries)]
            rng = np.random.default_rng([self.seed, stream, _AUGMENTATION, position])
            sample = _sample(self.mappers[stream], entry, rng)
            if not isinstance(sample, InputError):
                break
            errors[entry["file_name"]] = str(sample)
        return stream, sample, errors


@dataclass
class _TestDataset(Dataset):
    """Place in ``indices`` -> sample or error."""

    entries: Sequence[dict]
    indices: Sequence[int]
    mapper: Mapper

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict | InputError:
        return _sample(self.mapper, self.entries[self.indices[place]])


def _sample(mapper: Mapper, entry: dict, *rng: np.random.Generator) -> dict | InputError:
    """Return the error of a user's file as a value: torch would wrap it in the worker's traceback."""
    try:
        return mapper(entry, *rng)
    except InputError as error:
        return error
    except Exception as error:
        # A bug here or in a library: with the traceback, and the file that caused it.
        files = ", ".join(entry[key] for key in ("file_name", "sem_seg_file_name") if key in entry)
        raise RuntimeError(f"{type(error).__name__} while reading {files}: {error}") from error


def _or_raise(sample: Any) -> Any:
    if isinstance(sample, InputError):
        raise sample
    return sample


def _data_loader(dataset: Dataset, num_workers: int, **kwargs) -> DataLoader:
    # A batch is a list of samples. A generator of its own keeps the loader from advancing torch's
    # global one, which would make a run depend on how often it was evaluated or resumed. On Linux, workers are forked:
    # the ranks, themselves spawned, would spawn theirs, which import torch at each evaluation.
    collate = _share if num_workers > 0 else list
    kwargs |= {"num_workers": num_workers, "collate_fn": collate, "generator": torch.Generator()}
    context = "fork" if num_workers > 0 and sys.platform == "linux" else None
    return DataLoader(dataset, worker_init_fn=_start_worker, multiprocessing_context=context, **kwargs)


def _share(samples: list) -> list | InputError:
    """Move a batch to shared memory, in the worker: its queue would do so in a thread, whose errors nobody hears."""
    try:
        for sample in samples:
            for entry in sample if isinstance(sample, tuple) else (sample,):
                for value in entry.values() if isinstance(entry, dict) else ():
                    if isinstance(value, torch.Tensor):
                        value.share_memory_()
    except RuntimeError as error:
        return InputError(
            f"The data workers cannot pass images through shared memory ({one_line(error)}); give /dev/shm more room "
            "(docker run --shm-size 2g) or set DATALOADER.NUM_WORKERS 0."
        )
    return samples


def _batches(loader: DataLoader) -> Iterator[list]:
    try:
        with _signals_held():  # Here the workers are forked.
            batches = iter(loader)
        yield from map(_or_raise, batches)
    except (ConnectionError, EOFError):
        # A killed worker cuts its connection a moment before torch's signal handler raises the RuntimeError that names
        # the worker.
        time.sleep(_WORKER_END)
        raise


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGTERM and SIGINT back: a forked worker that got one before :func:`_start_worker` would end by it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    # A batch that the thread of a worker's queue cannot send is lost, and training would wait for it forever.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[method-assign]
    # Workers are the parallelism; OpenCV's threads inside them only compete for the cores.
    cv2.setNumThreads(0)
    # The training process handles a signal to the whole group and may need its workers for that: they end when it
    # sends them SIGTERM, and by themselves when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_worker(error: BaseException, batch: object) -> None:
    """End a worker that cannot send a batch, with the reason on stderr: torch reports its end to the training."""
    print(f"A data worker cannot send a batch: {one_line(error)}", file=sys.stderr, flush=True)
    os._exit(1)


def _end_with(parent: int) -> None:
    """End when ``parent`` sends SIGTERM; ignore the signal from anyone else."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

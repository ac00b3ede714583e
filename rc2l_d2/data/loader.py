"""The two training streams and the test loader.

A training stream is a pure function of the position in it: position p is image ``permutation(seed, stream, epoch)[p %
n]`` with epoch = p // n, and its augmentation is drawn from ``(seed, stream, p)``. So neither the number of workers nor
a resumed run changes what is seen, and with more processes each step still holds the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from ..host import CfgNode, comm
from .catalog import load_dataset
from .mappers import LabeledMapper, TestMapper, UnlabeledMapper

LABELED, UNLABELED = 0, 1
# What a generator is for: the two uses must not share a seed.
_ORDER, _AUGMENTATION = 0, 1
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

    def __init__(self, streams: _Streams, sampler: StepSampler, num_workers: int, pin_memory: bool):
        self.sampler = sampler
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
        for batch in self.loader:
            labeled: list[dict] = []
            unlabeled: list[dict] = []
            for stream, sample in batch:
                (labeled if stream == LABELED else unlabeled).append(_or_raise(sample))
            yield labeled, unlabeled


class TestLoader:
    """Iterable with a length of lists of one test sample: this process's share of a data set, in order."""

    __test__ = False  # pytest takes every class called Test* for a test.

    def __init__(self, entries: list[dict], mapper: TestMapper, num_workers: int):
        self.loader = _data_loader(_TestShare(entries, mapper), num_workers, batch_size=1)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
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
        InputError: data sets or sizes cannot be used; while iterating: a file cannot be used.
    """
    entries = [_entries(cfg.DATASETS.TRAIN, True, "DATASETS.TRAIN")]
    batch_sizes = [_divisible(cfg.SOLVER.IMS_PER_BATCH, "SOLVER.IMS_PER_BATCH")]
    mappers: list[Callable[[dict, np.random.Generator], dict]] = [LabeledMapper(cfg)]
    if use_unlabeled and cfg.DATASETS.UNLABELED:
        entries.append(_entries(cfg.DATASETS.UNLABELED, False, "DATASETS.UNLABELED"))
        batch_sizes.append(_divisible(cfg.SOLVER.IMS_PER_BATCH_UNLABELED, "SOLVER.IMS_PER_BATCH_UNLABELED"))
        mappers.append(UnlabeledMapper(cfg))
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = StepSampler(
        [len(stream) for stream in entries], batch_sizes, seed, start_iter, comm.get_rank(), comm.get_world_size()
    )
    pin_memory = torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda")
    return TrainLoader(_Streams(entries, mappers, seed), sampler, cfg.DATALOADER.NUM_WORKERS, pin_memory)


def build_test_loader(cfg: CfgNode, name: str) -> TestLoader:
    """Each image of a registered data set once, in order; processes take contiguous shares.

    Raises:
        InputError: the data set cannot be used; while iterating: an image cannot be read.
    """
    entries = load_dataset(name, labelled=False, key="DATASETS.TEST")
    first, last = share(len(entries), comm.get_rank(), comm.get_world_size())
    return TestLoader(entries[first:last], TestMapper(cfg), cfg.DATALOADER.NUM_WORKERS)


def share(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and last + 1 of the contiguous share of ``count`` things that process ``rank`` takes."""
    return count * rank // world_size, count * (rank + 1) // world_size


@dataclass(frozen=True)
class _Failure:
    """A user's mistake met in a worker: a value, because torch would wrap an exception in the worker's traceback."""

    message: str


class _Streams(Dataset):
    """(stream, position, index) -> (stream, sample)."""

    def __init__(self, entries: list[list[dict]], mappers: list[Callable], seed: int):
        self.entries, self.mappers, self.seed = entries, mappers, seed

    def __getitem__(self, key: Key) -> tuple[int, dict | _Failure]:
        stream, position, index = key
        rng = np.random.default_rng([self.seed, stream, _AUGMENTATION, position])
        try:
            return stream, self.mappers[stream](self.entries[stream][index], rng)
        except InputError as error:
            return stream, _Failure(str(error))


class _TestShare(Dataset):
    """index -> sample."""

    def __init__(self, entries: list[dict], mapper: TestMapper):
        self.entries, self.mapper = entries, mapper

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict | _Failure:
        try:
            return self.mapper(self.entries[index])
        except InputError as error:
            return _Failure(str(error))


def _or_raise(sample: dict | _Failure) -> dict:
    if isinstance(sample, _Failure):
        raise InputError(sample.message)
    return sample


def _data_loader(dataset: Dataset, num_workers: int, **kwargs) -> DataLoader:
    # collate_fn=list: a batch is a list of samples. A generator of its own keeps the loader from advancing torch's
    # global one, which would make a run depend on how often it was evaluated or resumed.
    return DataLoader(
        dataset,
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
        **kwargs,
    )


def _start_worker(worker: int) -> None:
    # Workers are the parallelism; OpenCV's threads inside them only fight over the cores.
    cv2.setNumThreads(0)


def _entries(names: Sequence[str], labelled: bool, key: str) -> list[dict]:
    entries = [entry for name in names for entry in load_dataset(name, labelled, key)]
    if not entries:
        raise InputError(f"{key} = {tuple(names)} holds no image; name a data set part that has some.")
    return entries


def _divisible(batch_size: int, key: str) -> int:
    processes = comm.get_world_size()
    if batch_size < 1 or batch_size % processes:
        raise InputError(
            f"{key} is {batch_size}, which cannot be shared evenly by {processes} process(es); set it to a positive "
            f"multiple of {processes}."
        )
    return batch_size

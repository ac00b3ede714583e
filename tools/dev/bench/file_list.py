#!/usr/bin/env python3
"""What a list of millions of unlabelled images costs: seconds at the start of a run, and memory in every process.

    python tools/dev/bench/file_list.py --images 10000000

writes a list of so many paths into a temporary folder (100,000 real files, seen through links, so that all of them
exist), reads it as training does, looks for repetitions and for images that are also in the labelled or the test list,
and starts worker processes that read entries from it. Memory is what the kernel counts: resident of the parent, and
private to each worker. A list of Python dictionaries, with a tenth of the images, is beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from rc2l_d2.data import load_dataset, register_definition  # noqa: E402
from rc2l_d2.data.datasets.entries import common_files, repeated_files  # noqa: E402

_REAL_FILES = 100_000
_WORKERS = 2


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def private() -> float:
    """Memory that belongs to this process alone, MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


class Reader(Dataset):
    """Reads the entry and says what the process that did it owns."""

    def __init__(self, entries: Sequence[dict]):
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> float:
        for place in range(index, len(self.entries), max(1, len(self.entries) // 10_000)):
            self.entries[place]
        return private()


def worker_memory(entries: Sequence[dict]) -> float:
    """The largest private memory (MB) of workers that have each read 10,000 entries."""
    loader = DataLoader(Reader(entries), batch_size=1, sampler=range(_WORKERS), num_workers=_WORKERS, collate_fn=max)
    return max(loader)


def write_data(folder: Path, count: int) -> Path:
    """The folders, lists and description; returns the YAML file."""
    real = folder / "real"
    real.mkdir()
    for index in range(min(count, _REAL_FILES)):
        (real / f"photo_from_the_archive_{index:06d}.jpg").touch()
    with open(folder / "unlabeled.txt", "w") as lines:
        for part in range(-(-count // _REAL_FILES)):
            link = folder / "images" / f"part_{part:03d}"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(real)
            for index in range(min(_REAL_FILES, count - part * _REAL_FILES)):
                lines.write(f"images/part_{part:03d}/photo_from_the_archive_{index:06d}.jpg\n")
    others = folder / "labelled_images"
    others.mkdir()
    for index in range(1000):
        (others / f"photo_{index:06d}.jpg").touch()
    definition = {
        "name": "bench",
        "root": str(folder),
        "images": "images",
        "image_suffix": ".jpg",
        "classes": ["a", "b"],
        "parts": {"unlabeled": {"list": "unlabeled.txt"}, "others": {"list": "others.txt"}},
    }
    (folder / "others.txt").write_text("".join(f"labelled_images/photo_{index:06d}.jpg\n" for index in range(1000)))
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    return file


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000, help="paths in the list (%(default)s)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        register_definition(write_data(Path(folder), args.images))
        before = resident()
        rows.append(("Python, torch and this package", None, before, worker_memory([{}] * _WORKERS)))
        start = time.perf_counter()
        entries = load_dataset("bench_unlabeled", labels="none")
        read = time.perf_counter()
        repetitions = repeated_files(entries)
        shared = common_files(load_dataset("bench_others", labels="none"), entries)
        looked = time.perf_counter()
        entries = load_dataset("bench_unlabeled", labels="none")  # The loader asks again.
        again = time.perf_counter()
        assert len(entries) == args.images and not repetitions and not shared
        rows.append(("read the list, look for files", read - start, resident(), None))
        rows.append(("look for repetitions and overlap", looked - read, resident(), None))
        rows.append(("the loader asks for the list again", again - looked, resident(), None))
        rows.append(("workers read entries", None, resident(), worker_memory(entries)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        rows.append(("start-up in all, and peak", again - start, peak, None))
        few = args.images // 10
        before = resident()
        dictionaries = [dict(entries[index]) for index in range(few)]
        grown = worker_memory(dictionaries)
        rows.append((f"{few:,} Python dictionaries instead, added memory", None, resident() - before, grown))
    print(f"{args.images:,} paths, {_WORKERS} workers; Python {platform.python_version()}, {os.cpu_count()} cores")
    headers = ("", "seconds", "parent, MB", "largest worker's own, MB")
    print(tabulate(rows, headers, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()

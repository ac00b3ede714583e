#!/usr/bin/env python3
"""Train for a long time and measure what must stay constant: memory and open files of each process, and throughput.

    python tools/dev/soak.py --config-file configs/toy/rc2l_R18.yaml --minutes 60 --num-gpus 2 --folder output/soak \\
        DATALOADER.NUM_WORKERS 2 SOLVER.CHECKPOINT_PERIOD 500 SOLVER.CHECKPOINT_KEEP 2 TEST.EVAL_PERIOD 1000

Runs train_net.py without an end and stops it with SIGTERM ``--minutes`` after its first logged iterations. Every
``--period`` seconds a sample of its ranks and data workers is written to ``<folder>/samples.jsonl``: resident memory
(not of a GPU) and open files. ``--table`` prints the tables of an earlier soak. For Linux; needs the extra "bench".
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from tabulate import tabulate

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.reporting import hardware
from rc2l_d2.reporting.run_folder import collect_scalars, read_entries

TRAIN_NET = Path(__file__).resolve().parents[2] / "train_net.py"
ENDLESS = 10**9  # iterations


def training_processes(launcher: psutil.Process) -> dict[str, psutil.Process]:
    """Return ranks and data workers as "rank 0", "worker 0.0" and so on, in the order in which they started."""

    def children(process: psutil.Process, wanted: Callable[[str], bool]) -> list[psutil.Process]:
        found = [child for child in process.children() if wanted(" ".join(child.cmdline()))]
        return sorted(found, key=lambda child: (child.create_time(), child.pid))

    named = {}
    # A single rank trains in the launcher's process.
    for rank, trainer in enumerate(children(launcher, lambda words: "spawn_main" in words) or [launcher]):
        workers = children(trainer, lambda words: "resource_tracker" not in words)
        named |= {f"rank {rank}": trainer, **{f"worker {rank}.{i}": worker for i, worker in enumerate(workers)}}
    return named


def soak(command: Sequence[str], folder: Path, minutes: float, period: float) -> None:
    """Run ``command`` and write samples until ``minutes`` after its first line in metrics.json.

    Raises:
        InputError: the run ended by itself, or with an unexpected status after SIGTERM.
    """
    start = None
    with open(folder / "log.txt", "w") as log, open(folder / "samples.jsonl", "w") as samples:
        run = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while start is None or time.monotonic() - start < 60 * minutes:
                time.sleep(period)
                if run.poll() is not None:
                    raise InputError(f"The run ended by itself with status {run.returncode}; see {folder / 'log.txt'}.")
                iterations = [entry["iteration"] for entry in read_entries(folder / "run" / "metrics.json")]
                if not iterations:
                    continue
                start = start or time.monotonic()
                with suppress(psutil.Error):  # a process ended in between; the next sample will be complete
                    processes = {
                        name: {"MB": process.memory_info().rss / 1e6, "files": process.num_fds()}
                        for name, process in training_processes(psutil.Process(run.pid)).items()
                    }
                    sample = {"minutes": (time.monotonic() - start) / 60, "iterations": max(iterations) + 1}
                    print(json.dumps({**sample, "processes": processes}), file=samples, flush=True)
        finally:
            run.terminate()
            run.wait()
        if run.returncode != 128 + signal.SIGTERM:
            raise InputError(f"The run ended with status {run.returncode} after SIGTERM; see {folder / 'log.txt'}.")


def windows(samples: Sequence[dict], warm_up: float, length: float) -> list[list[dict]]:
    """Group the samples after ``warm_up`` minutes by ``length`` minutes; groups less than half full are dropped."""
    groups: dict[int, list[dict]] = {}
    for sample in samples:
        if sample["minutes"] >= warm_up:
            groups.setdefault(int((sample["minutes"] - warm_up) / length), []).append(sample)
    most = max(map(len, groups.values()), default=0)
    return [group for group in groups.values() if 2 * len(group) >= most]


def medians(groups: Sequence[Sequence[dict]], rates: Mapping[int, float]) -> list[dict[str, float]]:
    """Return the medians of each group, for processes that live throughout; NaN for a rate that was not logged.

    Args:
        groups: :func:`windows`.
        rates: iterations done -> images per second, as logged.
    """
    alive = set.intersection(*({*sample["processes"]} for group in groups for sample in group))
    rows = []
    for group in groups:
        first, last = group[0]["iterations"], group[-1]["iterations"]
        logged = [rate for done, rate in rates.items() if first < done <= last] or [math.nan]
        row = {"minutes": group[-1]["minutes"], "images/s": statistics.median(logged)}
        for name, unit in itertools.product(sorted(alive), ("MB", "files")):
            row[f"{name}, {unit}"] = statistics.median(sample["processes"][name][unit] for sample in group)
        rows.append(row)
    return rows


def spread(values: Sequence[float]) -> float:
    """Return half the range in percent of its centre."""
    return 100 * (max(values) - min(values)) / max(max(values) + min(values), 1e-12)


def trend(minutes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the regression line in percent of the mean per hour."""
    return 100 * 60 * statistics.linear_regression(minutes, values).slope / max(statistics.fmean(values), 1e-12)


def tables(folder: Path, warm_up: float, length: float) -> str:
    """Return the tables of the samples in ``folder``; InputError if there are too few."""
    if not (folder / "samples.jsonl").is_file():
        raise InputError(f"{folder} holds no samples.jsonl; give the --folder of a soak.")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    groups = windows(samples, warm_up, length)
    if len(groups) < 2:
        raise InputError(f"{folder} has less than two windows of samples; give a smaller --window or --warm-up.")
    rows = medians(groups, collect_scalars(read_entries(folder / "run" / "metrics.json"), ENDLESS)["images_per_second"])
    over_time = [{name: x for name, x in row.items() if not name.startswith("worker")} for row in rows]
    constant = []
    for name in [*rows[0]][1:]:
        values = [row[name] for row in rows]
        constant.append([name, values[0], values[-1], spread(values), trend([row["minutes"] for row in rows], values)])
    titles, formats = ["", "first", "last", "+-, %", "trend, % per hour"], ("", ".4g", ".4g", ".2f", ".2f")
    return f"{tabulate(over_time, 'keys', floatfmt='.4g')}\n\n{tabulate(constant, titles, floatfmt=formats)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", help="as for train_net.py")
    parser.add_argument("--num-gpus", default="1", help="ranks, as for train_net.py")
    parser.add_argument("--folder", type=Path, default=Path("output/soak"))
    for name, default, text in (
        ("minutes", 60, "duration"), ("warm-up", 5, "minutes at the start that are not counted"),
        ("window", 5, "minutes per row of the table"), ("period", 30, "seconds between samples"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--table", action="store_true", help="only print the tables of --folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    args = parser.parse_args()
    try:
        if not args.table:
            if args.minutes < args.warm_up + 2 * args.window:
                raise InputError(f"--minutes is {args.minutes:g}; give at least --warm-up and two times --window.")
            load_config(args.config_file, args.opts)
            if args.folder.exists():
                raise InputError(f"{args.folder} exists; give another --folder.")
            args.folder.mkdir(parents=True)
            command = [
                sys.executable, str(TRAIN_NET), "--config-file", args.config_file, "--num-gpus", args.num_gpus,
                "--dist-url", "auto", *args.opts, "SOLVER.MAX_ITER", str(ENDLESS),
                "OUTPUT_DIR", str(args.folder.resolve() / "run"),
            ]  # fmt: skip
            soak(command, args.folder, args.minutes, args.period)
            print(f"{shlex.join(command[1:])}\n{hardware()}; {args.minutes:g} minutes\n")
        print(tables(args.folder, args.warm_up, args.window))
    except (OSError, InputError) as error:
        print(f"soak.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Train for a long time and measure what must stay constant: memory and open files of each process, and throughput.

    python tools/dev/soak.py --config-file configs/toy/rc2l_R18.yaml --minutes 60 --num-gpus 2 --folder output/soak \\
        DATALOADER.NUM_WORKERS 2 SOLVER.CHECKPOINT_PERIOD 500 SOLVER.CHECKPOINT_KEEP 2 TEST.EVAL_PERIOD 1000

Runs train_net.py without an end and stops it with SIGTERM ``--minutes`` after its first logged iterations. Every
``--period`` seconds a sample of its ranks and data workers is written to ``<folder>/samples.jsonl``: resident memory
(not of a GPU) and open files. ``--table`` prints the tables of an earlier soak. For Linux; needs the extra "bench".
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from tabulate import tabulate

from rc2l_d2.commands.cli import run_cli
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


def medians(samples: list[dict], rates: dict[int, float], warm_up: float, length: float) -> pd.DataFrame:
    """Return a row of medians for each window of ``length`` minutes after ``warm_up``, if it is at least half full.

    The columns are "minutes" at the end of the window, "images/s" of ``rates`` (iterations done -> images per second,
    as logged; NaN without any), and memory and open files of each process that lives throughout.
    """
    table = pd.json_normalize(samples, sep=", ").rename(columns=lambda name: name.removeprefix("processes, "))
    table = table[table["minutes"] >= warm_up]
    window = (table["minutes"] - warm_up) // length
    counts = window.map(window.value_counts())
    groups = table[2 * counts >= counts.max()].dropna(axis="columns").groupby(window)
    rows = groups.median()
    rows["minutes"] = groups["minutes"].max()
    logged, ends = pd.Series(rates), groups["iterations"].agg(["min", "max"])
    speed = [logged[(logged.index > first) & (logged.index <= last)].median() for first, last in ends.to_numpy()]
    rows.insert(1, "images/s", speed)
    return rows.drop(columns="iterations")


def spread(rows: pd.DataFrame) -> pd.Series:
    """Return half the range of each column in percent of its centre."""
    return 100 * (rows.max() - rows.min()) / (rows.max() + rows.min()).clip(lower=1e-12)


def trend(rows: pd.DataFrame) -> pd.Series:
    """Return the slope of each column's regression line over "minutes" in percent of its mean per hour."""
    slopes = np.polyfit(rows["minutes"], rows.to_numpy(), 1)[0]
    return 100 * 60 * slopes / rows.mean().clip(lower=1e-12)


def tables(folder: Path, warm_up: float, length: float) -> str:
    """Return the tables of the samples in ``folder``; InputError if there are too few."""
    if not (folder / "samples.jsonl").is_file():
        raise InputError(f"{folder} holds no samples.jsonl; give the --folder of a soak.")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    rates = collect_scalars(read_entries(folder / "run" / "metrics.json"), ENDLESS)["images_per_second"]
    rows = medians(samples, rates, warm_up, length)
    if len(rows) < 2:
        raise InputError(f"{folder} has less than two windows of samples; give a smaller --window or --warm-up.")
    over_time = rows[[name for name in rows if not name.startswith("worker")]]
    columns = {"first": rows.iloc[0], "last": rows.iloc[-1], "+-, %": spread(rows), "trend, % per hour": trend(rows)}
    constant = tabulate(pd.DataFrame(columns).drop("minutes"), "keys", floatfmt=("", ".4g", ".4g", ".2f", ".2f"))
    return f"{tabulate(over_time, 'keys', floatfmt='.4g', showindex=False)}\n\n{constant}"


def main() -> int:
    """Run the command line; return the exit status."""
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
    return run_cli(parser, run)


def run(args: argparse.Namespace) -> None:
    """Train and sample unless --table is given, then print the tables."""
    if not args.table:
        if args.minutes < args.warm_up + 2 * args.window:
            raise InputError(f"--minutes is {args.minutes:g}; give at least --warm-up and two times --window.")
        load_config(args.config_file, args.opts)
        if args.folder.exists():
            raise InputError(f"{args.folder} exists; give another --folder.")
        args.folder.mkdir(parents=True)
        options = ["--config-file", args.config_file, "--num-gpus", args.num_gpus, "--dist-url", "auto", *args.opts]
        overrides = ["SOLVER.MAX_ITER", str(ENDLESS), "OUTPUT_DIR", str(args.folder.resolve() / "run")]
        command = [str(TRAIN_NET), *options, *overrides]
        soak([sys.executable, *command], args.folder, args.minutes, args.period)
        print(f"{shlex.join(command)}\n{hardware()}; {args.minutes:g} minutes\n")
    print(tables(args.folder, args.warm_up, args.window))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Train for a long time and watch what has to stay flat: memory and open files of each process, and throughput.

    python tools/dev/soak.py --config-file configs/toy/rc2l_R18.yaml --minutes 60 --num-gpus 2 --folder output/soak \\
        DATALOADER.NUM_WORKERS 2 SOLVER.CHECKPOINT_PERIOD 500 SOLVER.CHECKPOINT_KEEP 2 TEST.EVAL_PERIOD 1000

The run is train_net.py's own, without an end, and is told to end (SIGTERM) ``--minutes`` after it has logged its first
iterations. Its processes are looked at twice a minute, from outside, and told apart by the order in which they started;
what does not live as long as the run, such as the workers of an evaluation, is left out. Memory is what a process has
resident, not a GPU's. For Linux.

What was seen stays in ``<folder>/samples.jsonl``, from which ``--table`` alone makes the tables again.
"""

from __future__ import annotations

import argparse
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

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from rc2l_d2.engine import load_config  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402
from rc2l_d2.reporting import hardware  # noqa: E402
from rc2l_d2.reporting.run_metrics import read_entries, read_scalars  # noqa: E402

MB = 1e6
END = 10**9  # An iteration that no soak reaches.
TOLD_TO_END = 128 + signal.SIGTERM
# Seconds within which a run logs its first iterations, and within which it ends when told to, perhaps in an evaluation.
PATIENCE = 1800


def training_processes(launcher: psutil.Process) -> dict[str, psutil.Process]:
    """The processes that train and their data workers, by name: "process 0", "worker 0.0" and so on."""
    # A run on one process trains in the one that was started.
    trainers = _started(launcher.children(), lambda words: "spawn_main" in words) or [launcher]
    named = {}
    for rank, trainer in enumerate(trainers):
        named[f"process {rank}"] = trainer
        workers = _started(trainer.children(), lambda words: "resource_tracker" not in words)
        named |= {f"worker {rank}.{place}": worker for place, worker in enumerate(workers)}
    return named


def _started(processes: Sequence[psutil.Process], wanted: Callable[[str], bool]) -> list[psutil.Process]:
    """Those of the processes whose command line is ``wanted``, in the order in which they started."""
    known = [process for process in processes if wanted(" ".join(process.cmdline()))]
    return sorted(known, key=lambda process: (process.create_time(), process.pid))


def look(launcher: psutil.Process, start: float, metrics_file: Path) -> dict:
    """One sample: minutes since ``start``, iterations so far, and of each process what it has in memory and open.

    Raises:
        psutil.Error: a process ended meanwhile.
    """
    return {
        "minutes": (time.monotonic() - start) / 60,
        "iterations": max(entry["iteration"] for entry in read_entries(metrics_file)) + 1,
        "processes": {
            name: {"pid": process.pid, "MB": process.memory_info().rss / MB, "files": process.num_fds()}
            for name, process in training_processes(launcher).items()
        },
    }


def soak(command: Sequence[str], folder: Path, minutes: float, period: float) -> None:
    """Run ``command`` for ``minutes`` from its first line in metrics.json on; write a sample every ``period`` seconds.

    Raises:
        InputError: it ended by itself, logged nothing for too long, or did not end when told to.
    """
    metrics_file, start = folder / "run" / "metrics.json", None
    begun, told = time.monotonic(), f"{folder / 'log.txt'} says more."
    with open(folder / "log.txt", "w") as log, open(folder / "samples.jsonl", "w") as samples:
        run = subprocess.Popen(command, stdout=log, stderr=log)
        launcher = psutil.Process(run.pid)
        try:
            while start is None or time.monotonic() - start < 60 * minutes:
                time.sleep(period)
                if run.poll() is not None:
                    raise InputError(f"The run ended by itself with status {run.returncode}; {told}")
                if start is None and any(read_entries(metrics_file)):
                    start = time.monotonic()
                if start is None and time.monotonic() - begun > PATIENCE:
                    raise InputError(f"The run logged nothing in {PATIENCE} seconds; {told}")
                if start is not None:
                    with suppress(psutil.Error):  # What has ended will be seen next time.
                        samples.write(json.dumps(look(launcher, start, metrics_file)) + "\n")
                        samples.flush()
        finally:
            run.terminate()
            try:
                run.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                for process in [*launcher.children(recursive=True), launcher]:
                    process.kill()
        if run.wait() != TOLD_TO_END:
            raise InputError(f"Told to end, the run left with status {run.wait()}; {told}")


def windows(samples: Sequence[dict], warm_up: float, length: float) -> list[list[dict]]:
    """The samples after ``warm_up`` minutes in groups of ``length`` minutes; groups less than half full are not."""
    groups: dict[int, list[dict]] = {}
    for sample in samples:
        if sample["minutes"] >= warm_up:
            groups.setdefault(int((sample["minutes"] - warm_up) / length), []).append(sample)
    most = max(map(len, groups.values()), default=0)
    return [group for group in groups.values() if 2 * len(group) >= most]


def table(groups: Sequence[Sequence[dict]], rates: Mapping[int, float]) -> list[dict[str, float]]:
    """A row for each group of samples: medians of what was seen in it; NaN for a rate where none was logged.

    Args:
        groups: :func:`windows`.
        rates: iterations done -> images a second of the steps before, as the run logged them.
    """
    # What does not live as long as the run is not told of.
    alive = set.intersection(*({*sample["processes"]} for group in groups for sample in group))
    rows = []
    for group in groups:
        first, last = group[0]["iterations"], group[-1]["iterations"]
        logged = [rate for done, rate in rates.items() if first < done <= last] or [math.nan]
        row = {"minutes": group[-1]["minutes"], "iterations": last, "images/s": statistics.median(logged)}
        for name in sorted(alive):
            seen = [sample["processes"][name] for sample in group]
            row[f"{name}, MB"] = statistics.median(process["MB"] for process in seen)
            row[f"{name}, files"] = statistics.median(process["files"] for process in seen)
        rows.append(row)
    return rows


def spread(values: Sequence[float]) -> float:
    """How far the smallest and the largest value are from the middle between them, in percent of it."""
    low, high = min(values), max(values)
    return 100 * (high - low) / max(high + low, 1e-12)


def trend(minutes: Sequence[float], values: Sequence[float]) -> float:
    """How fast the values rise, in percent of their mean an hour: the slope of the straight line closest to them."""
    return 100 * 60 * statistics.linear_regression(minutes, values).slope / max(statistics.fmean(values), 1e-12)


def tell(folder: Path, warm_up: float, length: float) -> str:
    """The tables of a soak that left its samples in ``folder``.

    Raises:
        InputError: there are too few, or none.
    """
    if not (folder / "samples.jsonl").is_file():
        raise InputError(f"{folder} holds no samples.jsonl; name the --folder of a soak.")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    groups = windows(samples, warm_up, length)
    if len(groups) < 2:
        raise InputError(
            f"{folder} has samples of less than two times {length:g} minutes after the first {warm_up:g}; give a "
            "smaller --window or --warm-up, or soak longer."
        )
    rows = table(groups, read_scalars(folder / "run" / "metrics.json", END)["images_per_second"])
    columns = [name for name in rows[0] if name not in ("minutes", "iterations")]
    over_time = [name for name in rows[0] if not name.startswith("worker")]
    minutes = [row["minutes"] for row in rows]
    flat = []
    for name in columns:
        values = [row[name] for row in rows]
        flat.append([name, values[0], values[-1], spread(values), trend(minutes, values)])
    return "\n\n".join(
        [
            tabulate([[row[name] for name in over_time] for row in rows], over_time, floatfmt=".4g"),
            tabulate(
                flat, ["", "first", "last", "+-, %", "trend, % an hour"], floatfmt=(None, ".4g", ".4g", ".2f", ".2f")
            ),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", help="of the run, as train_net.py has it")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--num-gpus", type=int, default=1, help="processes, as train_net.py has it")
    parser.add_argument("--folder", type=Path, default=Path("output/soak"))
    parser.add_argument("--warm-up", type=float, default=5, help="minutes at the start that do not count")
    parser.add_argument("--window", type=float, default=5, help="minutes that become a row")
    parser.add_argument("--period", type=float, default=30, help="seconds between samples")
    parser.add_argument("--table", action="store_true", help="only make the tables of what is in --folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as train_net.py takes them")
    args = parser.parse_args()
    try:
        if not args.table:
            if args.minutes < args.warm_up + 2 * args.window:
                raise InputError(
                    f"--minutes is {args.minutes:g}, less than --warm-up and two times --window; give more of the one "
                    "or less of the others."
                )
            command = [
                sys.executable, str(REPO / "train_net.py"), "--config-file", args.config_file,
                "--num-gpus", str(args.num_gpus), "--dist-url", "auto", *args.opts, "SOLVER.MAX_ITER", str(END),
                "OUTPUT_DIR", str(args.folder.resolve() / "run"),
            ]  # fmt: skip
            load_config(args.config_file, args.opts)
            args.folder.mkdir(parents=True)
            soak(command, args.folder, args.minutes, args.period)
            print(f"{shlex.join(command[1:])}\n{hardware()}; {args.minutes:g} minutes\n")
        print(tell(args.folder, args.warm_up, args.window))
    except FileExistsError:
        print(f"soak.py: {args.folder} exists; delete it, or name another --folder.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"soak.py: {args.folder} cannot be written ({error.strerror}); name another --folder.", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"soak.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

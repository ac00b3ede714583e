"""Whole training steps on noise, in each precision and compiled: all stays finite and, on CUDA, no step waits.

    python tools/dev/precisions.py --config-file configs/toy/rc2l_R18.yaml [--cases float32,float16] [KEY VALUE ...]

On CUDA, the last step of each case runs in torch's mode in which waiting for the device is an error. A CPU has no
float16 and computes in bfloat16 instead. Exit status 1 after a failure.
"""

import argparse

import torch
from bench.measure import step_on_noise
from tabulate import tabulate

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.engine import load_config
from rc2l_d2.engine.precision import describe_precision
from rc2l_d2.host import EventStorage

CASES = ("float32", "float16", "bfloat16", "compiled")


def run_steps(config_file: str, overrides: list[str], case: str, backend: str) -> str:
    """Run three steps after burn-in; return the precision.

    Raises:
        RuntimeError: a step waited for the device.
        FloatingPointError: a loss, a gradient or a weight is non-finite.
    """
    amp = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", case] if case.endswith("float16") else []
    cfg = load_config(config_file, ["SOLVER.AMP.ENABLED", "False", *amp, *overrides, "MODEL.WEIGHTS", ""])
    trainer, step = step_on_noise(cfg)
    if case == "compiled":
        trainer.student.compile(backend=backend)
    with EventStorage(trainer.iter):
        step()
        step()
        if trainer.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            if trainer.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        trainer.log.write()
    if not all(weight.isfinite().all() for weight in trainer.student.state_dict().values()):
        raise FloatingPointError("a weight is non-finite.")
    return describe_precision(cfg)


def check(args: argparse.Namespace) -> int:
    """Print a table with one row for each case."""
    rows = []
    for case in args.cases.split(","):
        try:
            rows.append((case, "passed", run_steps(args.config_file, args.opts, case, args.backend)))
        except (RuntimeError, FloatingPointError) as error:
            rows.append((case, "FAILED", f"{type(error).__name__}: {error}"))
    print(tabulate(rows, ["case", "three steps", ""]))
    return int(any(result != "passed" for _, result, _ in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--cases", default=",".join(CASES), help="(%(default)s)")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    raise SystemExit(run_cli(parser, check))

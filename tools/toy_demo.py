"""The whole method in one command: draw landscapes, train with and without unlabelled images, evaluate, show.

    python tools/toy_demo.py [--output output/demo] [KEY VALUE ...]

Ten of 256 images have labels. Writes summary.json and overlays.png to the output folder, beside the files of the RC2L
run (among them report.html); those of the run on labels alone are in labels_only.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from rc2l_d2 import load_segmenter
from rc2l_d2.commands import train
from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data import load_dataset, read_image, read_label
from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.data.toy.landscape import draw_landscape
from rc2l_d2.engine import PROGRESS_LOGGER, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import class_colors, draw_panels
from rc2l_d2.host import HOST, MetadataCatalog, setup_logger

OWN_KEYS = ("OUTPUT_DIR", "MODEL.META_ARCHITECTURE", "DATASETS.")
# Two runs side by side are faster with a thread each.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
ROOT, TEACHER = "datasets/landscapes", "sem_seg_teacher/"
SUPERVISED, RC2L = "configs/demo/supervised_R18.yaml", "configs/demo/rc2l_R18.yaml"
LABELED, UNLABELED, TEST = 10, 246, 64  # images; configs/demo/dataset.yaml has the fraction
# Teacher's mIoU with all 256 labels, recorded: the demo draws the set, and
# python train_net.py --config-file configs/demo/supervised_R18.yaml DATASETS.TRAIN "('landscapes_train',)"
ALL_LABELS = 88.6


def log_to_file(output_dir: str) -> None:
    """Write the log to log.txt, and only progress and warnings to the terminal."""
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(output_dir, name=name)
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler) and getattr(handler.stream, "name", "") == "<stdout>":
                handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == PROGRESS_LOGGER)


@contextmanager
def started(config_file: str, output: Path, opts: list[str]) -> Iterator[Callable[[], dict[str, float]]]:
    """Train in a process of its own, which ends with this context; yield a function that waits for the results."""
    command = [sys.executable, "train_net.py", "--config-file", config_file, *opts, "OUTPUT_DIR", str(output)]
    output.mkdir(parents=True, exist_ok=True)
    with (
        (output / "output.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env={**ONE_THREAD, **os.environ}) as process,
    ):

        def results() -> dict[str, float]:
            if process.wait():
                raise InputError(f"Training on labels alone failed (status {process.returncode}); see {log.name}.")
            last = json.loads((output / "metrics.json").read_text().splitlines()[-1])
            return {key.removeprefix(TEACHER): last[key] for key in last if key.startswith(TEACHER)}

        try:
            yield results
        finally:
            process.terminate()


def remove_old(*outputs: Path) -> None:
    """Remove the results of an earlier demo."""
    for output in outputs:
        for name in ("metrics.json", "report.html", "last_checkpoint", "summary.json", "overlays.png"):
            (output / name).unlink(missing_ok=True)


def demo(args: argparse.Namespace) -> None:
    """Draw, train, evaluate, and write summary.json and overlays.png."""
    start, output = time.perf_counter(), Path(args.output)
    if refused := [key for key in args.opts[::2] if key.startswith(OWN_KEYS)]:
        raise InputError(f"{refused[0]} cannot be given, since the demo sets it for both runs; use train_net.py.")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    cfg = load_config(RC2L, args.opts)
    bar = partial(tqdm, desc="drawing", unit="image", disable=None)
    draw_toy_dataset(ROOT, LABELED + UNLABELED, TEST, size=(64, 64), progress=bar, draw=draw_landscape)
    log_to_file(args.output)

    print(
        f"Training on {LABELED} labelled images alone and, with progress below, on {UNLABELED} unlabelled ones too by "
        f"RC2L: {cfg.SOLVER.MAX_ITER} iterations each on the {HOST} host ..."
    )
    remove_old(output, output / "labels_only")
    opts = [*args.opts, "OUTPUT_DIR", str(output)]
    with started(SUPERVISED, output / "labels_only", args.opts) as labels_only:
        train_args = argparse.Namespace(config_file=RC2L, opts=opts, resume=False, eval_only=False)
        rc2l = train.main(train_args)["sem_seg_teacher"]
        labels_alone = labels_only()
    dataset = cfg.DATASETS.TEST[0]
    names = MetadataCatalog.get(dataset).stuff_classes
    summary = {
        "host": HOST,
        "iterations": cfg.SOLVER.MAX_ITER,
        "seconds": round(time.perf_counter() - start, 1),
        "mIoU_labels_alone": labels_alone["mIoU"],
        "mIoU_RC2L": rc2l["mIoU"],
        "mIoU_all_labels_recorded": ALL_LABELS,
        "IoU_labels_alone": {name: labels_alone[f"IoU-{name}"] for name in names},
        "IoU_RC2L": {name: rc2l[f"IoU-{name}"] for name in names},
    }
    summary_file, overlays_file, report_file = (output / n for n in ("summary.json", "overlays.png", "report.html"))
    summary_file.write_text(json.dumps(summary, indent=2))
    segmenters = [load_segmenter(folder / "teacher_final.pth") for folder in (output / "labels_only", output)]
    rows = []
    for entry in [*load_dataset(dataset, labels="all", key="DATASETS.TEST")][:6]:
        label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
        predictions = [segment(entry["file_name"]).labels for segment in segmenters]
        rows.append((read_image(entry["file_name"], "RGB"), [label, *predictions]))
    titles = ["image", "ground truth", "labels alone", "RC2L"]
    draw_panels(rows, titles, names, class_colors(dataset), str(overlays_file))

    print(f"\nmIoU on {TEST} other images, in percent:")
    print(f"  {LABELED} labels alone                  {labels_alone['mIoU']:5.1f}")
    print(f"  RC2L, and {UNLABELED} unlabelled images  {rc2l['mIoU']:5.1f}")
    print(f"  {LABELED + UNLABELED} labels (recorded)            {ALL_LABELS:5.1f}")
    if args.opts:
        print("  (The recorded run had none of your options.)")
    print(f"Summary:  {summary_file}\nOverlays: {overlays_file}")
    if report_file.is_file():
        print(f"Report:   {report_file}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo", help="output folder (%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return run_cli(parser, demo)


if __name__ == "__main__":
    sys.exit(main())

"""The whole method in one command: draw landscapes, train with and without unlabelled images, evaluate, show.

    python tools/toy_demo.py [--output output/demo] [KEY VALUE ...]

Ten of 256 images have labels. Writes summary.json and overlays.png to the output folder, beside the files of the RC2L
run (among them report.html); those of the run on labels alone are in labels_only.
"""

import argparse
import json
import logging
import sys
import time
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rc2l_d2 import load_segmenter
from rc2l_d2.commands import train
from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data import load_dataset, read_image, read_label
from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.data.toy.landscape import draw_landscape
from rc2l_d2.engine import PROGRESS_LOGGER, load_config
from rc2l_d2.evaluation import class_colors, draw_panels
from rc2l_d2.host import HOST, MetadataCatalog, setup_logger

ROOT = "datasets/landscapes"
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


def train_run(config_file: str, output: Path, opts: list[str]) -> dict[str, float]:
    """Train one configuration; return the teacher's results."""
    for name in ("metrics.json", "report.html", "last_checkpoint"):  # of an earlier demo
        (output / name).unlink(missing_ok=True)
    opts = [*opts, "OUTPUT_DIR", str(output)]
    args = argparse.Namespace(config_file=config_file, opts=opts, resume=False, eval_only=False)
    return train.main(args)["sem_seg_teacher"]


def demo(args: argparse.Namespace) -> None:
    """Draw, train, evaluate, and write summary.json and overlays.png."""
    start, output = time.perf_counter(), Path(args.output)
    cfg = load_config(RC2L, args.opts)
    bar = partial(tqdm, desc="drawing", unit="image", disable=None)
    draw_toy_dataset(ROOT, LABELED + UNLABELED, TEST, size=(64, 64), progress=bar, draw=draw_landscape)
    log_to_file(args.output)

    print(f"Training on {LABELED} labelled images alone, {cfg.SOLVER.MAX_ITER} iterations on the {HOST} host ...")
    labels_alone = train_run(SUPERVISED, output / "labels_only", args.opts)
    print(f"Training RC2L, with {UNLABELED} unlabelled images, {cfg.SOLVER.MAX_ITER} iterations ...")
    rc2l = train_run(RC2L, output, args.opts)
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

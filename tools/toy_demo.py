"""The whole method in one command: draw the toy set, train RC2L on 1/16 of its labels, evaluate, show.

    python tools/toy_demo.py [--config-file configs/toy/rc2l_R18.yaml] [--output output/demo] [KEY VALUE ...]

Writes summary.json and overlays.png to the output folder, beside the files of every run (among them report.html).
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from rc2l_d2 import load_segmenter
from rc2l_d2.commands import train
from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data import load_dataset, read_image, read_label
from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.engine import PROGRESS_LOGGER, RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import class_colors, draw_panels
from rc2l_d2.host import HOST, MetadataCatalog, setup_logger

TOY_ROOT = "datasets/toy"


def log_to_file(output_dir: str) -> None:
    """Write the log to log.txt, and only progress and warnings to the terminal."""
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(output_dir, name=name)
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler) and getattr(handler.stream, "name", "") == "<stdout>":
                handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == PROGRESS_LOGGER)


def demo(args: argparse.Namespace) -> None:
    """Draw, train, evaluate, and write summary.json and overlays.png."""
    start = time.perf_counter()
    opts = ["OUTPUT_DIR", args.output, *args.opts]
    cfg = load_config(args.config_file, opts)
    burn_in, period = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, cfg.TEST.EVAL_PERIOD
    if not RC2LTrainer.uses_unlabeled(cfg) or not 0 < burn_in < cfg.SOLVER.MAX_ITER or period < 1 or burn_in % period:
        raise InputError(
            "The demo compares RC2L with the end of its burn-in; set MODEL.SEMI_SUPERVISED.BURN_IN_ITERS to a multiple "
            "of TEST.EVAL_PERIOD below SOLVER.MAX_ITER."
        )
    print(f"Drawing the toy set in {TOY_ROOT} ...")
    draw_toy_dataset(TOY_ROOT, num_train=512, num_val=128)
    output = Path(cfg.OUTPUT_DIR)
    metrics_file, summary_file, overlays_file, report_file = (
        output / name for name in ("metrics.json", "summary.json", "overlays.png", "report.html")
    )
    for file in (metrics_file, report_file, output / "last_checkpoint"):  # of an earlier demo
        file.unlink(missing_ok=True)
    log_to_file(cfg.OUTPUT_DIR)

    print(f"Training RC2L for {cfg.SOLVER.MAX_ITER} iterations on the {HOST} host ...")
    results = train.main(argparse.Namespace(config_file=args.config_file, opts=opts, resume=False, eval_only=False))
    student, teacher = results["sem_seg"], results["sem_seg_teacher"]
    entries = map(json.loads, metrics_file.read_text().splitlines())
    after_burn_in = next(entry for entry in entries if entry["iteration"] + 1 == burn_in and "sem_seg/mIoU" in entry)
    dataset = cfg.DATASETS.TEST[0]
    names = MetadataCatalog.get(dataset).stuff_classes
    summary = {
        "host": HOST,
        "iterations": cfg.SOLVER.MAX_ITER,
        "seconds": round(time.perf_counter() - start, 1),
        "mIoU_student_after_burn_in": after_burn_in["sem_seg/mIoU"],
        "mIoU_teacher_after_burn_in": after_burn_in["sem_seg_teacher/mIoU"],
        "mIoU_student": student["mIoU"],
        "mIoU_teacher": teacher["mIoU"],
        "IoU_teacher": {name: teacher[f"IoU-{name}"] for name in names},
        "IoU_student": {name: student[f"IoU-{name}"] for name in names},
    }
    summary_file.write_text(json.dumps(summary, indent=2))
    segment, rows = load_segmenter(output / "teacher_final.pth"), []
    for entry in [*load_dataset(dataset, labels="all", key="DATASETS.TEST")][:6]:
        label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
        rows.append((read_image(entry["file_name"], "RGB"), [label, segment(entry["file_name"]).labels]))
    titles = ["image", "ground truth", "prediction (teacher)"]
    draw_panels(rows, titles, names, class_colors(dataset), str(overlays_file))

    print(f"{json.dumps(summary, indent=2)}\nSummary:  {summary_file}\nOverlays: {overlays_file}")
    if report_file.is_file():
        print(f"Report:   {report_file}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/toy/rc2l_R18.yaml")
    parser.add_argument("--output", default="output/demo", help="output folder (%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return run_cli(parser, demo)


if __name__ == "__main__":
    sys.exit(main())

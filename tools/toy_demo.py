#!/usr/bin/env python3
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

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.engine import PROGRESS_LOGGER, RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import class_colors, draw_panels, predict_images
from rc2l_d2.host import HOST, HOST_REASON, MetadataCatalog, default_setup, setup_logger
from rc2l_d2.reporting import note_start, report_on

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
    metrics_file, summary_file, overlays_file = map(output.joinpath, ("metrics.json", "summary.json", "overlays.png"))
    metrics_file.unlink(missing_ok=True)  # A run appends to it.
    log_to_file(cfg.OUTPUT_DIR)
    logging.getLogger("rc2l_d2").info("Host: %s (%s)", HOST, HOST_REASON)
    default_setup(cfg, args)

    print(f"Training RC2L for {cfg.SOLVER.MAX_ITER} iterations on the {HOST} host ...")
    RC2LTrainer.check_data(cfg)
    trainer = RC2LTrainer(cfg)
    trainer.resume_or_load(resume=False)
    note_start(trainer, args.config_file, opts)
    trainer.train()

    student, teacher = trainer.last_results["sem_seg"], trainer.last_results["sem_seg_teacher"]
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
    predicted = predict_images(cfg, trainer.teacher.model, dataset, range(6))
    rows = [(image.image, [image.label, image.prediction]) for image in predicted]
    titles = ["image", "ground truth", "prediction (teacher)"]
    draw_panels(rows, titles, names, class_colors(dataset), str(overlays_file))

    print(f"{json.dumps(summary, indent=2)}\nSummary:  {summary_file}\nOverlays: {overlays_file}")
    if report := report_on(trainer):
        print(f"Report:   {report}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/toy/rc2l_R18.yaml")
    parser.add_argument("--output", default="output/demo", help="output folder (%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return run_cli(parser, demo)


if __name__ == "__main__":
    sys.exit(main())

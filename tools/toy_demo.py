#!/usr/bin/env python3
"""The whole method in one command: draw the toy set, train RC2L on 1/16 of its labels, evaluate, show.

    python tools/toy_demo.py [--config-file configs/toy/rc2l_R18.yaml] [--output output/demo] [KEY VALUE ...]

Writes summary.json and overlays.png to the output folder, beside what every run writes (report.html has it all).
"""

import argparse
import json
import logging
import os
import sys
import time

from rc2l_d2.data.toy.dataset import draw_toy_dataset
from rc2l_d2.engine import PROGRESS_LOGGER, Interrupted, RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import draw_comparison
from rc2l_d2.host import HOST, HOST_REASON, MetadataCatalog, default_setup, setup_logger
from rc2l_d2.reporting import note_start, report_on

TOY_ROOT = "datasets/toy"


def log_to_file(output_dir: str) -> None:
    """Leave the log to log.txt; the terminal shows progress and warnings."""
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(output_dir, name=name)
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler) and getattr(handler.stream, "name", "") == "<stdout>":
                handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == PROGRESS_LOGGER)


def miou_by_iteration(metrics_file: str) -> dict[int, tuple[float, float]]:
    """mIoU of (student, teacher) in percent after so many iterations, from a run's metrics.json."""
    with open(metrics_file) as file:
        entries = [json.loads(line) for line in file]
    return {
        entry["iteration"] + 1: (entry["sem_seg/mIoU"], entry["sem_seg_teacher/mIoU"])
        for entry in entries
        if "sem_seg/mIoU" in entry
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/toy/rc2l_R18.yaml")
    parser.add_argument("--output", default="output/demo", help="folder for everything that the run writes")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()
    start = time.perf_counter()

    print(f"Drawing the toy set in {TOY_ROOT} ...")
    draw_toy_dataset(TOY_ROOT, num_train=512, num_val=128)

    cfg = load_config(args.config_file, ["OUTPUT_DIR", args.output, *args.opts])
    burn_in, period = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, cfg.TEST.EVAL_PERIOD
    if not RC2LTrainer.uses_unlabeled(cfg) or not 0 < burn_in < cfg.SOLVER.MAX_ITER or period < 1 or burn_in % period:
        raise InputError(
            "The demo compares RC2L with the end of its burn-in; give MODEL.SEMI_SUPERVISED.BURN_IN_ITERS a multiple of "
            "TEST.EVAL_PERIOD below SOLVER.MAX_ITER."
        )
    metrics_file = os.path.join(cfg.OUTPUT_DIR, "metrics.json")
    if os.path.exists(metrics_file):
        # Metrics are appended, and those of an earlier demo are no part of this one.
        os.remove(metrics_file)
    log_to_file(cfg.OUTPUT_DIR)
    logging.getLogger("rc2l_d2").info("Host: %s (%s)", HOST, HOST_REASON)
    default_setup(cfg, args)

    print(f"Training RC2L for {cfg.SOLVER.MAX_ITER} iterations on the {HOST} host ...")
    RC2LTrainer.check_data(cfg)
    trainer = RC2LTrainer(cfg)
    trainer.resume_or_load(resume=False)
    note_start(trainer, args.config_file, ["OUTPUT_DIR", args.output, *args.opts])
    trainer.train()

    student, teacher = trainer.last_results["sem_seg"], trainer.last_results["sem_seg_teacher"]
    dataset = cfg.DATASETS.TEST[0]
    after_burn_in = miou_by_iteration(metrics_file)[burn_in]
    summary = {
        "host": HOST,
        "iterations": cfg.SOLVER.MAX_ITER,
        "seconds": round(time.perf_counter() - start, 1),
        "mIoU_student_after_burn_in": after_burn_in[0],
        "mIoU_teacher_after_burn_in": after_burn_in[1],
        "mIoU_student": student["mIoU"],
        "mIoU_teacher": teacher["mIoU"],
        "IoU_teacher": {name: teacher[f"IoU-{name}"] for name in MetadataCatalog.get(dataset).stuff_classes},
        "IoU_student": {name: student[f"IoU-{name}"] for name in MetadataCatalog.get(dataset).stuff_classes},
    }
    summary_file = os.path.join(cfg.OUTPUT_DIR, "summary.json")
    with open(summary_file, "w") as file:
        json.dump(summary, file, indent=2)
    overlays_file = os.path.join(cfg.OUTPUT_DIR, "overlays.png")
    draw_comparison(cfg, {"prediction (teacher)": trainer.teacher.model}, dataset, range(6), overlays_file)

    print(json.dumps(summary, indent=2))
    print(f"Summary:  {summary_file}\nOverlays: {overlays_file}")
    if report := report_on(trainer):
        print(f"Report:   {report}")


if __name__ == "__main__":
    try:
        main()
    except Interrupted as end:
        print(f"toy_demo.py: {end}", file=sys.stderr)
        sys.exit(end.status)
    except InputError as error:
        print(f"toy_demo.py: {error}", file=sys.stderr)
        sys.exit(2)

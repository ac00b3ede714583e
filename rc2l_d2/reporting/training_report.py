"""The training report: curves, results, example images and pseudo-labels of a run in one HTML file."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..command_words import command_words
from ..engine import EMATeacher, RC2LTrainer
from ..engine.telemetry import FRACTIONS
from ..engine.whole_files import write_text
from ..errors import InputError, one_line
from ..evaluation import class_colors
from ..host import MetadataCatalog, comm
from .charts import line_chart, line_style
from .example_images import Row, test_rows, unlabeled_rows
from .run_folder import STUDENT, TEACHER, RunFolder, read_run, step_seconds

logger = logging.getLogger(__name__)

REPORT = "report.html"
_IMAGES_PER_KIND = 6
_TEMPLATE = Path(__file__).with_suffix(".html")


def report_on(trainer: RC2LTrainer) -> Path | None:
    """Write the training report of a finished run, on the main rank, if TEST.REPORT is set.

    Returns:
        the file; None if there is none. Any error is logged only: the run itself is complete.
    """
    if not comm.is_main_process() or not trainer.cfg.TEST.REPORT:
        return None
    folder = trainer.cfg.OUTPUT_DIR
    try:
        path = write_run_report(Path(folder), teacher=trainer.teacher)
    except Exception as error:
        command = shlex.join([*command_words("report"), folder])
        logger.warning("No training report (%s: %s); write it with: %s", type(error).__name__, one_line(error), command)
        return None
    logger.info("Training report: %s", path)
    return path


def write_run_report(folder: Path, baseline: Path | None = None, teacher: EMATeacher | None = None) -> Path:
    """Write ``report.html`` into the folder of a run, finished or not, and return its path.

    The report omits what the folder does not hold (weights, telemetry) and says why there are no example images.

    Args:
        folder: OUTPUT_DIR of the run.
        baseline: OUTPUT_DIR of a run with the same test data, to show beside this one.
        teacher: the run's teacher; None to load it from the last checkpoint.

    Raises:
        InputError: a folder is not a run's, the baseline was not evaluated on the same data, or the file cannot be
            written.
    """
    from jinja2 import Environment, StrictUndefined

    run = read_run(folder)
    other = read_run(baseline) if baseline is not None else None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tests = [_test(run, other, name) for name in dict.fromkeys(run.cfg.DATASETS.TEST)]
    test_images, unlabeled_images, problem = _example_images(run, teacher)
    classes = _classes(run.cfg.DATASETS.TRAIN[0])
    telemetry, by_class = [], []
    for name in FRACTIONS:
        if name in run.scalars:
            telemetry.append(_chart(run, name, {name: run.scalars[name]}))
        labels = [label for label, _ in classes if f"{name}-{label}" in run.scalars]
        if labels:
            curves = {label: run.scalars[f"{name}-{label}"] for label in labels}
            by_class.append(_chart(run, f"{name}, each class", curves))
    # Losses with a number at the end are those of earlier decoder layers.
    losses = sorted(name for name in run.scalars if re.fullmatch(r"total_loss|loss_.*\D|lr|gradient_norm", name))
    options = [] if baseline is None else ["--baseline", str(baseline)]
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        run=run, baseline=other, nan=math.nan, tests=tests, classes=classes, problem=problem,
        test_images=test_images, unlabeled_images=unlabeled_images, telemetry=telemetry, telemetry_by_class=by_class,
        losses=[_chart(run, name, {name: run.scalars[name]}) for name in losses],
        seconds=step_seconds(run.scalars, run.burn_in),
        report_command=shlex.join([*command_words("report"), str(folder), *options]),
    )  # fmt: skip
    write_text(folder / REPORT, page)
    return folder / REPORT


def _chart(run: RunFolder, title: str, curves: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """Draw curves: label -> iterations -> value."""
    uri = line_chart([*curves.values()], run.iterations, run.burn_in)
    legend = [(*line_style(index), label, [*curves[label].values()][-1]) for index, label in enumerate(curves)]
    return {"title": title, "uri": uri, "legend": legend}


def _test(run: RunFolder, baseline: RunFolder | None, dataset: str) -> dict[str, Any]:
    """Return the results on one test set, those of the baseline's teacher beside them.

    Raises:
        InputError: the baseline was not evaluated on this test set.
    """
    scores = {"teacher": run.scores(TEACHER, dataset), "student": run.scores(STUDENT, dataset)}
    if baseline:
        scores["baseline"] = baseline.scores(TEACHER, dataset)
        if not scores["baseline"]:
            raise InputError(
                f"{baseline.folder} was not evaluated on {dataset}; give --baseline a run with the same test data."
            )
    last = {name: {metric: next(reversed(values.values())) for metric, values in metrics.items()}
            for name, metrics in scores.items()}  # fmt: skip
    curves = {name: metrics["mIoU"] for name, metrics in scores.items() if "mIoU" in metrics}
    test = {"dataset": dataset, "last": last, "chart": None}
    if scores["teacher"]:
        test["chart"] = _chart(run, f"mIoU on {dataset}, percent", curves)
        test["iterations"] = [*curves["teacher"]][-1]
        test["baseline_iterations"] = [*curves["baseline"]][-1] if baseline else 0
        test["metrics"] = [name for name in sorted(last["teacher"]) if not re.match("IoU-|ACC-|mIoU_best_it", name)]
        test["classes"] = _classes(dataset)
    return test


def _classes(dataset: str) -> list[tuple[str, list[int]]]:
    """Return names and RGB colours."""
    return [*zip(MetadataCatalog.get(dataset).stuff_classes, class_colors(dataset).tolist(), strict=True)]


@torch.no_grad()
def _example_images(run: RunFolder, teacher: EMATeacher | None) -> tuple[dict[str, list[Row]], list[Row], str]:
    """Return rows of each test set, rows of unlabelled images, and a sentence if some cannot be shown."""
    tests: dict[str, list[Row]] = {}
    unlabeled: list[Row] = []
    try:
        teacher = teacher or run.load_teacher()
        if run.uses_unlabeled and run.cfg.DATASETS.UNLABELED:
            unlabeled = unlabeled_rows(run.cfg, teacher, _IMAGES_PER_KIND)
        for name in dict.fromkeys(run.cfg.DATASETS.TEST):
            tests[name] = test_rows(run.cfg, teacher, name, _IMAGES_PER_KIND)
    except (InputError, RuntimeError, MemoryError) as error:  # unusable files, or too little memory
        return tests, unlabeled, f"Example images are missing: {error}"
    return tests, unlabeled, ""

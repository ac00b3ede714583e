"""A page on one run: what was run, its curves and results, pictures, and how to go on. One file, for any browser."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from ..command_words import command_words
from ..engine import EMATeacher, RC2LTrainer
from ..engine.dry_run import plan_rows
from ..engine.telemetry import SHARES
from ..engine.whole_files import write_text
from ..errors import InputError
from ..evaluation import class_colors
from ..host import MetadataCatalog, comm
from .charts import PALETTE, Line, line_chart
from .example_images import Row, test_rows, unlabeled_rows
from .run_folder import Evaluation, RunFolder, read_run
from .run_metrics import STUDENT, TEACHER, read_result

logger = logging.getLogger(__name__)

REPORT = "report.html"
# Of each kind.
_PICTURES = 6
# Beside mistakes in files, too little memory, of a GPU or of the machine.
_NO_PICTURES = (InputError, RuntimeError, MemoryError)
_TEMPLATE = Path(__file__).with_suffix(".html")
_EXPLAINED = {
    "total_loss": "all losses of a step together",
    "loss_ce": "classes of the queries, on labels",
    "loss_mask": "masks of the queries, focal loss, on labels",
    "loss_dice": "masks of the queries, Dice loss, on labels",
    "loss_rmc": "region mask contrast, against pseudo regions",
    "loss_rfc": "region feature contrast, against pseudo regions",
    "loss_rcc": "region class consistency, against pseudo regions",
    "loss_smc": "semantic mask consistency, against pseudo labels",
    "loss_pixel_consistency": "cross-entropy against pseudo labels",
    "loss_pixel_contrast": "contrast of pixel features",
    "lr": "learning rate",
    "gradient_norm": "norm of the gradient before clipping",
    "pseudo/confident_share": "of the positions in the mixed images, the share in a pseudo region",
    "pseudo/regions_per_image": "pseudo regions that an image has",
    "pseudo/classes_present": "share of the classes with a pseudo region in a batch",
    "pseudo/agreement": "of the confident positions, where the student says the same on the mixed strong view",
    "pseudo/accuracy": "of the confident positions with a label, where the pseudo label is right",
    "pseudo/precision": "the same of each class of the pseudo labels, mean over these",
    "pseudo/recall": "of the positions of a class, those with a right and confident pseudo label, mean over classes",
}


@dataclass(frozen=True)
class Chart:
    """A drawing with its legend."""

    title: str
    text: str
    lines: Sequence[Line]
    svg: str


def report_on(trainer: RC2LTrainer) -> Path | None:
    """Write the page on a run that has just ended, where TEST.REPORT asks for it and on the main process.

    Returns:
        the file; None where there is none. Whatever goes wrong is logged, for the run is done.
    """
    if not comm.is_main_process() or not trainer.cfg.TEST.REPORT:
        return None
    folder = trainer.cfg.OUTPUT_DIR
    try:
        start = time.perf_counter()
        path = write_run_report(Path(folder), teacher=trainer.teacher)
        logger.info("Report, made in %.1f s: %s", time.perf_counter() - start, path)
        return path
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        logger.warning(
            "There is no report on this run (%s: %s); mend that and make it with: %s %s",
            type(error).__name__, reason, " ".join(command_words("report")), folder,
        )  # fmt: skip
        return None


def write_run_report(folder: Path, baseline: Path | None = None, teacher: EMATeacher | None = None) -> Path:
    """Write ``report.html`` into the folder of a run, finished or not.

    What a run has not left (weights, telemetry) is left out; where pictures cannot be made the page says why.

    Args:
        folder: its OUTPUT_DIR.
        baseline: that of another run, evaluated on the same data, whose results stand beside this one's.
        teacher: the run's, where it is at hand; otherwise it is loaded.

    Returns:
        the file.

    Raises:
        InputError: a folder is none of a run; the baseline was not evaluated on the same data; the file cannot be
            written.
    """
    # A few hundredths of a second, which who writes no page need not spend.
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def number(value: float, form: str = ".2f") -> Markup:
        """Rounded for the eye, and as it was logged for programs and for who points at it."""
        if math.isnan(value):
            return Markup("<data value='nan'>–</data>")
        return Markup(f"<data value='{value!r}' title='{value!r}'>{escape(format(value, form))}</data>")

    run = read_run(folder)
    other = read_run(baseline) if baseline is not None else None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, svg=Markup)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    path = folder / REPORT
    write_text(path, template.render(_page(run, other, teacher)))
    return path


def _page(run: RunFolder, baseline: RunFolder | None, teacher: EMATeacher | None) -> dict[str, Any]:
    """What the template is filled with."""
    tests = [_Test(run, evaluation, _of_baseline(baseline, evaluation)) for evaluation in run.evaluations()]
    tests_shown, unlabeled_shown, problems = _pictures(run, teacher)
    classes = _classes(run.cfg.DATASETS.TRAIN[0])
    by_class = {name: [label for label, _ in classes if f"{name}-{label}" in run.scalars] for name in SHARES}
    losses = _by_family(name for name in run.scalars if name == "total_loss" or name.startswith("loss_"))
    return {
        "run": run,
        "nan": math.nan,
        "method": run.cfg.MODEL.META_ARCHITECTURE,
        "palette": PALETTE,
        "tests": tests,
        "baseline": baseline,
        "classes": classes,
        "seconds": read_result(run.folder / "metrics.json", run.max_iter, _burn_in(run)).seconds,
        "test_pictures": tests_shown,
        "unlabeled_pictures": unlabeled_shown,
        "problems": problems,
        "telemetry": [_chart(run, name, [name]) for name in SHARES if name in run.scalars],
        "telemetry_by_class": [
            _chart(run, f"{name}, each class", [f"{name}-{label}" for label in labels], labels)
            for name, labels in by_class.items()
            if labels
        ],
        "losses": [_chart(run, name, keys) for name, keys in losses.items()],
        "others": [_chart(run, name, [name]) for name in ("lr", "gradient_norm") if name in run.scalars],
        "facts": _facts(run),
        "commands": run.commands(baseline),
        "directory": os.getcwd(),
        "config": (run.folder / "config.yaml").read_text(encoding="utf-8"),
    }


class _Test:
    """Of one test set: curves, classes and metrics, the baseline's beside them."""

    def __init__(self, run: RunFolder, evaluation: Evaluation, baseline: Evaluation | None):
        self.evaluation, self.baseline = evaluation, baseline
        self.student, self.teacher = evaluation.metrics[STUDENT], evaluation.metrics[TEACHER]
        self.other = baseline.metrics[TEACHER] if baseline else {}
        curves = {"teacher": evaluation.curves[TEACHER], "student": evaluation.curves[STUDENT]}
        if baseline:
            curves["baseline (its teacher)"] = baseline.curves[TEACHER]
        lines = [Line(label, points, style) for style, (label, points) in enumerate(curves.items()) if points]
        self.chart = _drawn(run, f"mIoU on {evaluation.dataset}", "percent", lines) if lines else None
        names = [name for name in self.teacher if not name.startswith(("IoU-", "ACC-", "mIoU_best"))]
        self.metrics = sorted(names, key=lambda name: (not name.startswith("mIoU"), name))
        self.classes = _classes(evaluation.dataset) if self.teacher else []


def _classes(dataset: str) -> list[tuple[str, list[int]]]:
    """Names and colours."""
    return [*zip(MetadataCatalog.get(dataset).stuff_classes, class_colors(dataset).tolist(), strict=True)]


def _of_baseline(baseline: RunFolder | None, evaluation: Evaluation) -> Evaluation | None:
    """The baseline's evaluation on the same data."""
    if baseline is None:
        return None
    found = [other for other in baseline.evaluations() if other.dataset == evaluation.dataset and other.iterations]
    if not found:
        raise InputError(
            f"{baseline.folder} was not evaluated on {evaluation.dataset}; give --baseline a run that was, on the same "
            "data as this one."
        )
    return found[0]


@torch.no_grad()
def _pictures(
    run: RunFolder, teacher: EMATeacher | None
) -> tuple[Mapping[str, Sequence[Row]], Sequence[Row], Sequence[str]]:
    """Rows of each test set, rows of unlabelled images, and a sentence on each kind that could not be made."""
    tests: dict[str, Sequence[Row]] = {}
    unlabeled: Sequence[Row] = []
    confidence_known = True
    if teacher is None:
        try:
            teacher, confidence_known = run.load_teacher()
        except _NO_PICTURES as error:
            return tests, unlabeled, [f"There are no pictures: {error}"]
    problems = []
    try:
        for name in dict.fromkeys(run.cfg.DATASETS.TEST):
            tests[name] = test_rows(run.cfg, teacher, name, _PICTURES)
    except _NO_PICTURES as error:
        problems.append(f"There are no pictures of test images: {error}")
    if run.uses_unlabeled and run.cfg.DATASETS.UNLABELED:
        try:
            if not confidence_known:
                raise InputError("teacher_final.pth does not have the teacher's confidences, which a checkpoint has.")
            unlabeled = unlabeled_rows(run.cfg, teacher, _PICTURES)
        except _NO_PICTURES as error:
            problems.append(f"There are no pictures of unlabelled images: {error}")
    return tests, unlabeled, problems


def _by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """Losses by what they are of: the last decoder layer's, then the others', which end in its number."""
    families: dict[str, list[str]] = {}
    for name in sorted(names):
        families.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
    order = [name for name in _EXPLAINED if name in families]
    return {name: families[name] for name in dict.fromkeys([*order, *families])}


def _chart(run: RunFolder, title: str, names: Sequence[str], labels: Sequence[str] = ()) -> Chart:
    """Numbers of the log; of several of one loss, those of earlier decoder layers stand behind."""
    family = not labels
    lines = [
        Line(label, run.scalars[name], 0 if family else index, faint=family and name != title)
        for index, (name, label) in enumerate(zip(names, labels or names, strict=True))
    ]
    return _drawn(run, title, _EXPLAINED.get(title, ""), lines)


def _drawn(run: RunFolder, title: str, text: str, lines: Sequence[Line]) -> Chart:
    end = max(run.iterations, *(next(reversed(line.points)) for line in lines))
    return Chart(title, text, lines, line_chart(f"chart{crc32(title.encode())}", lines, end, _burn_in(run)))


def _burn_in(run: RunFolder) -> int:
    """Iterations on labels alone, of a run that has others after them; otherwise 0."""
    burn_in = run.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
    return burn_in if run.uses_unlabeled and burn_in < run.iterations else 0


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """(what, what it is) of how the run was made."""
    facts = []
    for start in run.starts:
        again = f"resumed after {start.get('iteration')} iterations" if start.get("iteration") else "started"
        facts += [
            (again, f"{start.get('date')}"),
            ("command", f"{start.get('command')}"),
            ("configuration file", f"{start.get('config_file')}"),
            ("overrides", " ".join(start.get("overrides", [])) or "none"),
            ("code", f"rc2l_d2 {start.get('version')}, commit {start.get('commit')}"),
            ("host", f"{start.get('host')} ({start.get('host_reason')})"),
            ("hardware", f"{start.get('hardware')}; {start.get('processes')} process(es)"),
            ("versions", f"torch {start.get('torch')}, Python {start.get('python')}"),
            ("seed", f"{start.get('seed')}" + (" (drawn)" if run.cfg.SEED < 0 else "")),
        ]
    if not run.starts:
        facts += [("command, host, hardware", "not noted: the folder has no starts.json"), ("seed", f"{run.cfg.SEED}")]
    return facts + plan_rows(run.cfg)

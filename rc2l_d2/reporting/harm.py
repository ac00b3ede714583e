"""Whether unlabelled images may have harmed a run, as far as its own evaluations tell, and what tells more."""

from __future__ import annotations

import logging
import shlex

from ..command_words import command_words
from ..host import META_ARCH_REGISTRY
from .run_folder import TEACHER, RunFolder

logger = logging.getLogger(__name__)


def find_harm(run: RunFolder, dataset: str) -> str:
    """Return a sentence if the teacher ended below its mIoU in burn-in, which uses labels alone; "" otherwise.

    A run that ends above it may still be below labels alone, which would have learned on: only a second run tells that
    (:func:`labels_alone`). "" too for a run that has not ended, or was not evaluated in burn-in.
    """
    evaluations = run.scores(TEACHER, dataset).get("mIoU", {})
    in_burn_in = [value for iteration, value in evaluations.items() if iteration <= run.burn_in]
    last = evaluations.get(run.max_iter)
    if last is None or not in_burn_in or not last < in_burn_in[-1]:
        return ""
    return (
        f"The teacher's mIoU on {dataset} fell from {in_burn_in[-1]:.1f} in burn-in, on labels alone, to {last:.1f} at "
        "the end: the unlabelled images may have lowered it; train on labels alone and compare."
    )


def labels_alone(run: RunFolder) -> list[str]:
    """Return the commands that train the same model on labels alone and report on both."""
    architecture = META_ARCH_REGISTRY.get(run.cfg.MODEL.META_ARCHITECTURE)
    supervised = next(parent.__name__ for parent in architecture.__mro__ if not parent.uses_unlabeled)
    alone = f"{run.folder}_labels_alone"
    return [
        shlex.join([*run.train_command(), "MODEL.META_ARCHITECTURE", supervised, "OUTPUT_DIR", alone]),
        shlex.join([*command_words("report"), str(run.folder), "--baseline", alone]),
    ]


def warn_of_harm(run: RunFolder) -> None:
    """Log each :func:`find_harm` with the commands of :func:`labels_alone`."""
    for dataset in dict.fromkeys(run.cfg.DATASETS.TEST):
        if sentence := find_harm(run, dataset):
            logger.warning("%s\n  %s", sentence, "\n  ".join(labels_alone(run)))

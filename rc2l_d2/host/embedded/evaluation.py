"""Inference over a data set, and the log of its metrics."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


@torch.no_grad()
def inference_on_dataset(model: Callable, data_loader: Iterable, evaluator: Any) -> dict:
    """Run ``model`` over the batches of ``data_loader`` without gradients, in eval mode, and log progress and speed.

    Calls ``evaluator.reset()`` first, ``process(batch, outputs)`` per batch, and returns its ``evaluate()`` ({} for
    None). The mode of a module is restored afterwards.
    """
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()
    start = last_log = time.perf_counter()
    try:
        for done, inputs in enumerate(data_loader, start=1):
            evaluator.process(inputs, model(inputs))
            now = time.perf_counter()
            if now - last_log >= 5:
                eta = datetime.timedelta(seconds=int((now - start) / done * (total - done)))
                logger.info("Inference done %d/%d. ETA=%s", done, total, eta)
                last_log = now
    finally:
        if training:
            model.train()
    seconds = time.perf_counter() - start
    logger.info("Inference took %.1f s (%.4f s / iter per rank)", seconds, seconds / max(total, 1))
    return evaluator.evaluate() or {}


def print_csv_format(results: Mapping) -> None:
    """Log the main metrics of each task (those without "-" in their name) as comma-separated lines."""
    for task, metrics in results.items():
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))

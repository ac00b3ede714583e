"""Running a model over a data set, and showing the numbers."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import comm


class DatasetEvaluator:
    """Collects what it needs from pairs of inputs and outputs, and makes results of it in the end."""

    def reset(self) -> None:
        """Forget everything; called before a round of evaluation."""

    def process(self, inputs: list, outputs: list) -> None:
        """Take in one batch and what the model made of it."""

    def evaluate(self) -> dict | None:
        """The results, ``{task: {metric: number}}``; None on ranks that have none."""


@contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    if not isinstance(model, nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def inference_on_dataset(model: Any, data_loader: Iterable, evaluator: DatasetEvaluator) -> dict:
    """Run ``model`` over ``data_loader`` without gradients, in eval mode, and evaluate; logs progress and speed.

    Args:
        model: a module, whose mode is restored in the end, or any callable.
        data_loader: batches; has a length.
        evaluator: what the batches and outputs are given to.

    Returns:
        what ``evaluator.evaluate()`` returns, an empty dict for None.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    warmup = min(5, total - 1)
    start = last_log = time.perf_counter()
    compute = 0.0
    with _eval_mode(model), torch.no_grad():
        for index, inputs in enumerate(data_loader):
            if index == warmup:  # the first batches are slower and don't count
                start, compute = time.perf_counter(), 0.0
            before = time.perf_counter()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            compute += time.perf_counter() - before
            evaluator.process(inputs, outputs)
            now = time.perf_counter()
            if index >= 2 * warmup and now - last_log >= 5:
                per_batch = (now - start) / (index + 1 - warmup)
                eta = datetime.timedelta(seconds=int(per_batch * (total - index - 1)))
                logger.info("Inference done %d/%d. Total: %.4f s/iter. ETA=%s", index + 1, total, per_batch, eta)
                last_log = now
    if total:
        seconds, counted = time.perf_counter() - start, total - warmup
        logger.info(
            "Total inference time: %s (%.6f s / iter per device, %.6f of them in the model, on %d devices)",
            datetime.timedelta(seconds=int(seconds)), seconds / counted, compute / counted, comm.get_world_size(),
        )  # fmt: skip
    return evaluator.evaluate() or {}


def print_csv_format(results: Mapping) -> None:
    """Log the main metrics of each task (those without "-" in their name) as comma-separated lines."""
    logger = logging.getLogger(__name__)
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def flatten_results_dict(results: Mapping) -> dict:
    """Nested results in one level: ``{"a": {"b": x}}`` becomes ``{"a/b": x}``."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": x for inner, x in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat

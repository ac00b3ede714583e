"""The embedded host's evaluation."""

from __future__ import annotations

import pytest
from torch import nn

from rc2l_d2.host.embedded import evaluation
from rc2l_d2.host.embedded.evaluation import inference_on_dataset


class Evaluator:
    """Records its calls."""

    def __init__(self):
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs))

    def evaluate(self):
        self.calls.append("evaluate")


def test_an_evaluator_gets_every_batch_between_reset_and_evaluate():
    evaluator = Evaluator()
    assert inference_on_dataset(lambda batch: [-x for x in batch], [[1, 2], [3]], evaluator) == {}
    assert evaluator.calls == ["reset", ([1, 2], [-1, -2]), ([3], [-3]), "evaluate"]


def test_mode_is_restored_even_after_a_failure():
    class Fails(nn.Module):
        def forward(self, batch):
            assert not self.training
            raise RuntimeError("on purpose")

    model = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        inference_on_dataset(model, [[1]], Evaluator())
    assert model.training


def test_csv_shows_main_metrics(monkeypatch):
    lines = []
    monkeypatch.setattr(evaluation.logger, "info", lambda message, *args: lines.append(message % args))
    evaluation.print_csv_format({"sem_seg": {"mIoU": 12.34567, "IoU-a": 1.0, "pACC": 50.0}})
    assert lines == ["copypaste: Task: sem_seg", "copypaste: mIoU,pACC", "copypaste: 12.3457,50.0000"]

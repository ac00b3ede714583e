"""MODEL.COMPILE: the same losses and gradients, a plain model in evaluation and in checkpoints, one sentence."""

from __future__ import annotations

import copy

import pytest
import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.modeling.compiled import compiled


@pytest.fixture
def make_trainer(tiny_options):
    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options]))
        trainer.resume_or_load(resume=False)
        return trainer

    return make


@pytest.fixture
def graphs(monkeypatch) -> list:
    """Traced and differentiated as always, but then run operator by operator: making C++ of it takes minutes. Holds
    the graphs that were traced."""
    traced = []
    real = torch.compile

    def backend(graph, inputs):
        traced.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=backend, **options))
    torch._dynamo.reset()
    yield traced
    torch._dynamo.reset()


def test_a_compiled_step_has_the_losses_and_gradients_of_the_plain_one(make_trainer, graphs):
    plain, made = make_trainer(), make_trainer("MODEL.COMPILE", "True")
    assert made.model.state_dict().keys() == plain.model.state_dict().keys()
    results = []
    for trainer in (plain, made):
        step = trainer._trainer
        step.iter = 5
        labeled, unlabeled = next(iter(trainer.data_loader))
        strong, pseudo, view = step.teach(unlabeled)
        torch.manual_seed(0)
        losses = step.model(labeled, strong, pseudo, view)
        sum(losses.values()).backward()
        results.append((losses, [parameter.grad for parameter in step.model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1, "there is no break in it"


def test_evaluation_and_the_teacher_are_not_compiled(make_trainer, graphs):
    trainer = make_trainer("MODEL.COMPILE", "True")
    trainer._trainer.iter = 5
    trainer._trainer.teach(next(iter(trainer.data_loader))[1])
    trainer.model.eval()
    for size in ((64, 64), (32, 96)):
        trainer.model([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
    assert not graphs
    assert copy.deepcopy(trainer.teacher.model)._training_program is None


def test_what_cannot_be_compiled_is_told_in_a_sentence():
    def breaks(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x + 1

    torch._dynamo.reset()
    with pytest.raises(InputError, match=r"^MODEL.COMPILE is True, but .* set it to False\.$"):
        compiled(breaks)(torch.zeros(3))

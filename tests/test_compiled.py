"""MODEL.COMPILE: the losses and gradients of the plain model, which evaluation and copies still are; one sentence.

Traced and differentiated as always, the graphs are run operator by operator here: making C++ of them takes minutes, and
would draw other units in dropout, which the tiny model has not.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.modeling import compiled


@pytest.fixture
def make_trainer(tiny_options):
    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options]))
        trainer.resume_or_load(resume=False)
        trainer._trainer.iter = 5  # after burn-in
        return trainer

    return make


@pytest.fixture
def graphs(monkeypatch) -> list:
    """The graphs that were traced."""
    traced = []
    real = torch.compile

    def backend(graph, inputs):
        traced.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=backend, **options))
    for _ in range(2):
        torch._dynamo.reset()
        compiled._program.cache_clear()
        if not traced:
            yield traced
            traced.append(None)


def losses_of(trainer: RC2LTrainer) -> dict[str, torch.Tensor]:
    labeled, unlabeled = next(iter(trainer.data_loader))
    arguments = trainer._trainer.teach(unlabeled) if trainer.uses_unlabeled(trainer.cfg) else ()
    torch.manual_seed(0)
    return trainer.model(labeled, *arguments)


@pytest.mark.parametrize("architecture", ["RC2L", "RegionSegmentor"])
def test_a_compiled_step_is_the_plain_one(make_trainer, graphs, architecture):
    options = ("MODEL.META_ARCHITECTURE", architecture)
    plain, made = make_trainer(*options), make_trainer(*options, "MODEL.COMPILE", "True")
    results = []
    for trainer in (plain, made):
        losses = losses_of(trainer)
        sum(losses.values()).backward()
        gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
        results.append((losses, gradients, trainer.model.state_dict()))  # with batch statistics
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1, "there is no break in it"


def test_evaluation_and_several_passes_are_plain_and_copies_are_their_own(make_trainer, graphs):
    trainer = make_trainer("MODEL.COMPILE", "True", "SOLVER.IMS_PER_PASS", "2")
    losses_of(trainer)  # the teacher's too
    student = trainer.model.eval()
    for size in ((64, 64), (32, 96)):
        student([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
    assert not graphs
    student.train()
    images = torch.zeros(2, 3, 64, 64)
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.sem_seg_head.predictor.class_embed.bias += 3
        difference = other.regions(images).class_logits - student.regions(images).class_logits
    torch.testing.assert_close(difference, torch.full_like(difference, 3))
    assert graphs


def test_without_a_compiler_it_is_told_in_a_sentence(tmp_path):
    script = """
import torch
from rc2l_d2.errors import InputError
from rc2l_d2.modeling.compiled import run_compiled
try:
    run_compiled(lambda x: x.sin() + 1, torch.ones(3))
except InputError as error:
    print(error)
"""
    without = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPO, capture_output=True, text=True, timeout=300, env={**os.environ, **without},
    )  # fmt: skip
    assert result.stdout.startswith("MODEL.COMPILE is True, but") and result.stdout.endswith("set it to False.\n")
    assert "compiler" in result.stdout and result.stdout.count("\n") == 1

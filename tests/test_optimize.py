"""One update of the weights: clipping, its norm, the gradient scaler, and the seeds of a step."""

import itertools

import pytest
import torch


def clipped(trainer, clip: float, norm_type: float = 2.0) -> tuple[float, torch.Tensor]:
    """Update by a loss whose gradient is 1000 everywhere; return the norm that is reported, and all gradients."""
    step = trainer._trainer
    step.clip_norm, step.norm_type = clip, norm_type
    loss = 1000 * sum(parameter.sum() for parameter in trainer.model.parameters())
    norm = float(step.optimize(loss))
    return norm, torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_the_gradient_of_the_whole_model_is_clipped(make_trainer, norm_type):
    trainer = make_trainer()
    norm, gradient = clipped(trainer, 0.5, norm_type)
    assert norm == pytest.approx(1000 * gradient.numel() ** (1 / norm_type), rel=1e-3)
    assert float(gradient.double().norm(norm_type)) == pytest.approx(0.5, rel=1e-3)
    assert (gradient > 0).all()


def test_settings_of_clipping_are_those_of_the_configuration(make_trainer):
    options = ("ENABLED", "True", "CLIP_TYPE", "full_model", "CLIP_VALUE", "0.25", "NORM_TYPE", "1.0")
    keys = [word if place % 2 else f"SOLVER.CLIP_GRADIENTS.{word}" for place, word in enumerate(options)]
    step = make_trainer(*keys)._trainer
    assert (step.clip_norm, step.norm_type) == (0.25, 1.0)
    assert make_trainer("SOLVER.CLIP_GRADIENTS.ENABLED", "False")._trainer.clip_norm is None


def test_a_scaled_gradient_is_unscaled_before_it_is_measured_and_clipped(make_trainer):
    trainer = make_trainer()
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    norm, gradient = clipped(trainer, 0.5)
    assert norm == pytest.approx(1000 * gradient.numel() ** 0.5, rel=1e-4)
    assert float(gradient.double().norm()) == pytest.approx(0.5, rel=1e-4)


def test_seeds_ranks_and_iterations_have_random_numbers_of_their_own(make_trainer, monkeypatch):
    step = make_trainer()._trainer
    seeds = set()
    for rank, step.seed, step.iter in itertools.product(range(3), (5, 6), range(3)):
        monkeypatch.setattr("rc2l_d2.engine.step.comm.get_rank", lambda rank=rank: rank)
        seeds.update(step.seeds())
        assert step.seeds() == step.seeds()
    assert len(seeds) == 36

"""A few images a pass: the whole batch's losses and gradient, with the activations of one pass."""

from __future__ import annotations

import pytest
import torch

from rc2l_d2.engine import RC2LTrainer, load_config


@pytest.fixture
def make_trainer(tiny_options):
    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        batches = ("SOLVER.IMS_PER_BATCH", "3", "SOLVER.IMS_PER_BATCH_UNLABELED", "4")
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *batches, *options]))
        trainer.resume_or_load(resume=False)
        return trainer

    return make


def losses_of(trainer: RC2LTrainer) -> tuple[dict[str, torch.Tensor], int]:
    """A step's losses, and the bytes that autograd keeps for them."""
    step, kept = trainer._trainer, {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    step.iter = 5
    labeled, unlabeled = next(iter(trainer.data_loader))
    strong, pseudo, view = step.teach(unlabeled)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = step.model(labeled, strong, pseudo, view)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in step.model.parameters()}
    return losses, sum(size for pointer, size in kept.items() if pointer not in parameters)


# 3 labelled and 4 unlabelled images: the second pass of two holds one of either.
@pytest.mark.parametrize("size", [1, 2, 5])
def test_losses_and_gradient_are_those_of_the_whole_batch(make_trainer, size):
    whole, passes = (make_trainer("MODEL.RESNETS.NORM", "GN", "SOLVER.IMS_PER_PASS", str(n)) for n in (0, size))
    (losses, memory), (same, less) = losses_of(whole), losses_of(passes)
    assert losses.keys() == same.keys() and {"loss_rfc", "loss_ce_0"} < losses.keys()
    torch.testing.assert_close(same, losses, rtol=1e-5, atol=1e-6)
    assert less < 0.4 * memory
    for one in (losses, same):
        sum(one.values()).backward()
    for (name, parameter), other in zip(whole.model.named_parameters(), passes.model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_dropout_is_the_same_in_the_repeated_pass(make_trainer):
    """Or the gradient would be of another function than the loss: seen by finite differences."""
    trainer = make_trainer("MODEL.RESNETS.NORM", "GN", "SOLVER.IMS_PER_PASS", "2", "MODEL.MASK_FORMER.DROPOUT", "0.5")
    bias = trainer.model.sem_seg_head.predictor.class_embed.bias

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return losses_of(trainer)[0]["loss_ce"]

    loss().backward()
    step = 1e-2 * bias.grad / bias.grad.norm()
    with torch.no_grad():
        bias += step
        higher = loss()
        bias -= 2 * step
        lower = loss()
    assert (higher - lower).item() / 2e-2 == pytest.approx(bias.grad.norm().item(), rel=1e-2)


def test_batch_statistics_count_every_pass_once(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_PASS", "2")
    norm = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    losses, _ = losses_of(trainer)
    assert [len(images) for images in seen] == [2, 2, 2, 1]
    expected = torch.zeros(norm.num_features)
    for images in seen:
        expected = (1 - norm.momentum) * expected + norm.momentum * images.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
    sum(losses.values()).backward()
    assert len(seen) == 8, "the backward pass repeats all four"
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.num_batches_tracked == 4 and norm.momentum == 0.1

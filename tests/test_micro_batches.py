"""Micro-batches: losses and gradient of the whole batch, with the activations of one micro-batch."""

import pytest
import torch
from method_cases import random_regions
from step_cases import watched_step

from rc2l_d2.modeling.micro_batches import regions_in_micro_batches

BATCHES = ("SOLVER.IMS_PER_BATCH", "3", "SOLVER.IMS_PER_BATCH_UNLABELED", "4")
# Batch normalisation would make a prediction depend on the other images of its micro-batch.
NORM = ("MODEL.RESNETS.NORM", "GN")


def losses_and_memory(trainer) -> tuple[dict[str, torch.Tensor], int]:
    """Return a step's losses, and the bytes that autograd keeps for them."""
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = watched_step(trainer).losses
    parameters = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    return losses, sum(size for pointer, size in kept.items() if pointer not in parameters)


# 3 labelled and 4 unlabelled images: the second micro-batch of two holds one of each.
@pytest.mark.parametrize("size", [2, 5])
def test_losses_and_gradient_are_those_of_the_whole_batch(make_trainer, size):
    whole, micro = (make_trainer(*BATCHES, *NORM, "SOLVER.IMS_PER_PASS", str(n)) for n in (0, size))
    for trainer in (whole, micro):
        trainer.model.double()
        trainer.teacher.model.double()
        trainer.teacher.labeler.kappa = trainer.teacher.labeler.kappa.double()
    (losses, memory), (micro_losses, micro_memory) = losses_and_memory(whole), losses_and_memory(micro)
    assert {"loss_rfc", "loss_ce"} < losses.keys()
    torch.testing.assert_close(micro_losses, losses, rtol=1e-9, atol=1e-9)
    assert micro_memory < 0.4 * memory
    gradients = ({name: p.grad for name, p in trainer.model.named_parameters()} for trainer in (micro, whole))
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_dropout_is_the_same_in_the_repeated_forward(make_trainer):
    """Otherwise the gradient would not match the finite differences of the loss."""
    trainer = make_trainer(*BATCHES, *NORM, "SOLVER.IMS_PER_PASS", "2", "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.5")
    bias = trainer.model.sem_seg_head.predictor.mask_embed.bias
    labeled, _ = next(iter(trainer.data_loader))

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return trainer.model(labeled)["loss_mask"]

    loss().backward()
    step = 1e-2 * bias.grad / bias.grad.norm()
    with torch.no_grad():
        bias += step
        higher = loss()
        bias -= 2 * step
        lower = loss()
    assert (higher - lower).item() / 2e-2 == pytest.approx(bias.grad.norm().item(), rel=1e-2)


def test_micro_batches_count_the_first_labelled_and_the_last_dropped_images():
    seen, plain = [], random_regions((1, 2, 3, 4, 5, 6), 0)

    def predict(images, *counts):
        seen.append((len(images), *counts))
        return plain

    regions_in_micro_batches(predict, torch.zeros(8, 3, 4, 4), 3, 4, 3, torch.nn.Identity())
    assert seen == [(3, 3, 0), (3, 0, 2), (2, 0, 2)]


def test_batch_statistics_count_every_micro_batch_once(make_trainer):
    trainer = make_trainer(*BATCHES, "SOLVER.IMS_PER_PASS", "2")
    norm = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    watched_step(trainer)
    assert [len(images) for images in seen[:4]] == [2, 2, 2, 1]
    assert len(seen) == 8, "the backward pass repeats all four"
    expected = torch.zeros(norm.num_features)
    for images in seen[:4]:
        expected = (1 - norm.momentum) * expected + norm.momentum * images.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.num_batches_tracked == 4 and norm.momentum == 0.1

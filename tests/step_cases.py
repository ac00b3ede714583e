"""One training step of a real trainer, with what passes through it."""

from dataclasses import dataclass
from itertools import islice
from unittest.mock import patch

import torch

from rc2l_d2.regions import PseudoRegions, Regions


@dataclass
class WatchedStep:
    """Inputs of the student and of its unlabelled losses, and the weighted losses by name, after the backward pass."""

    images: torch.Tensor
    regions: Regions
    semantic_map: torch.Tensor
    pseudo: PseudoRegions
    losses: dict[str, torch.Tensor]


def batch_after_burn_in(trainer) -> tuple[list[dict], list[dict]]:
    """Return the samples of the first step with unlabelled images."""
    return next(islice(trainer.data_loader, trainer.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, None))


def watched_step(trainer, batch: tuple[list[dict], list[dict]] | None = None, iteration: int = 3) -> WatchedStep:
    """Run ``run_step`` on ``batch`` at full ramp, without update and log; gradients are kept.

    ``batch``: samples; None for the first ones with unlabelled images.
    """
    step, inputs = trainer._trainer, []
    batch = batch_after_burn_in(trainer) if batch is None else batch
    step.iter = iteration

    def backward(loss: torch.Tensor) -> torch.Tensor:
        step.optimizer.zero_grad()
        loss.backward()
        return torch.zeros(())

    handle = step.student.register_forward_pre_hook(lambda model, arguments: inputs.append(arguments[0]))
    with (
        patch.object(step, "next_batch", return_value=(*batch, 0.0)),
        patch.object(step.student, "unlabeled_losses", wraps=step.student.unlabeled_losses) as unlabeled_losses,
        patch.object(step, "optimize", backward),
        patch.object(step.log, "add") as add,
    ):
        step.run_step()
    handle.remove()
    return WatchedStep(inputs[0], *unlabeled_losses.call_args.args, add.call_args.args[1])

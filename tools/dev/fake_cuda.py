"""Forward pass of whole training steps on fake CUDA tensors: finds tensors that a step leaves on the wrong device.

    python tools/dev/fake_cuda.py --config-file configs/toy/rc2l_R18.yaml [KEY VALUE ...]

Needs a torch that is built with CUDA, but no GPU: a fake tensor has a shape and a device, and no values. The step runs
for each architecture, mixing and size of micro-batches on a batch of noise. The backward pass is left out, because it
needs a driver. Exit status 1 after a failure.
"""

import argparse
import copy
import itertools

import torch
from bench.measure import random_batch
from tabulate import tabulate
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.engine import EMATeacher, SemiSupervisedTrainer, build_optimizer, load_config
from rc2l_d2.engine.setup import build_model_or_explain
from rc2l_d2.errors import InputError
from rc2l_d2.host import EventStorage

ARCHITECTURES = ("RegionSegmentor", "PerPixelSegmentor", "PixelConsistency", "PixelContrast", "UniMatch", "RC2L")
MIXING = ("none", "cutmix", "classmix", "labeled")
MICRO_BATCHES = (0, 1)


class ForwardStep(SemiSupervisedTrainer):
    """A training step without backward pass and update."""

    def optimize(self, loss: torch.Tensor) -> torch.Tensor:
        assert loss.device.type == "cuda"
        return loss.detach()


def move_to_cuda(model: torch.nn.Module) -> None:
    """Replace parameters and buffers, since ``Module.to`` cannot swap fake tensors."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(parameter.cuda(), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.cuda())


def forward_on_fake_cuda(config_file: str, overrides: list[str]) -> None:
    """Run the forward pass of the first step after burn-in; an operation that mixes devices raises."""
    cfg = load_config(config_file, [*overrides, "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "0"])
    model = build_model_or_explain(cfg)
    teacher = EMATeacher.from_config(cfg, model)
    batch = random_batch(cfg, model.uses_unlabeled)
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        model, teacher, batch = copy.deepcopy((model, teacher, batch))
    with mode, EventStorage(0):
        move_to_cuda(model)
        move_to_cuda(teacher.model)
        if teacher.labeler is not None:
            teacher.labeler.kappa = teacher.labeler.kappa.cuda()
        step = ForwardStep(cfg, model, [batch], build_optimizer(cfg, model), teacher)
        step.iter = 0
        step.run_step()


def check(args: argparse.Namespace) -> int:
    """Print a table with one row for each case."""
    if not torch.backends.cuda.is_built():
        raise InputError(f"torch {torch.__version__} is built without CUDA; install a build with CUDA (no GPU needed).")
    rows = []
    for architecture, mixing, size in itertools.product(ARCHITECTURES, MIXING, MICRO_BATCHES):
        settings = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.SEMI_SUPERVISED.MIX", mixing]
        try:
            forward_on_fake_cuda(args.config_file, [*args.opts, *settings, "SOLVER.IMS_PER_PASS", str(size)])
            result = "passed"
        except RuntimeError as error:
            result = f"FAILED: {error}"
        rows.append((architecture, mixing, size, result))
    print(tabulate(rows, ["architecture", "mixing", "images in a micro-batch", "forward pass"]))
    return int(any(row[-1] != "passed" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    raise SystemExit(run_cli(parser, check))

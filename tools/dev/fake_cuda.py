"""Forward pass of whole training steps on fake CUDA tensors: finds tensors that a step leaves on the wrong device.

    python tools/dev/fake_cuda.py --config-file configs/toy/rc2l_R18.yaml [KEY VALUE ...]

Needs a torch that is built with CUDA, but no GPU: a fake tensor has a shape and a device, and no values. Needs the
embedded host: Detectron2's ImageList reads the sizes of images from tensors. Runs each
architecture, whole and in micro-batches, on the backbone of the configuration and, if timm is installed, on a
convolutional one and a ViT of timm; then each mixing. The backward pass needs a driver, and Hungarian matching needs
values: both are left out. Exit status 1 after a failure.
"""

import argparse
import itertools
from importlib.util import find_spec

import torch
from bench.measure import random_batch
from tabulate import tabulate
from torch._subclasses.fake_tensor import FakeTensorMode

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.engine import EMATeacher, SemiSupervisedTrainer, build_optimizer, load_config
from rc2l_d2.engine.setup import build_model_or_explain
from rc2l_d2.errors import InputError
from rc2l_d2.host import HOST, EventStorage

LABELS_ALONE = ("RegionSegmentor", "PerPixelSegmentor")
SEMI_SUPERVISED = ("PixelConsistency", "PixelContrast", "UniMatch", "RC2L")
TIMM_BACKBONES = ("test_efficientnet", "test_vit")


class ForwardStep(SemiSupervisedTrainer):
    """A training step without backward pass and update."""

    def optimize(self, loss: torch.Tensor) -> torch.Tensor:
        assert loss.device.type == "cuda"
        return loss.detach()


def fake(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape and type on CUDA."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def move_to_cuda(model: torch.nn.Module) -> None:
    """Replace parameters and buffers, since ``Module.to`` cannot swap fake tensors."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(fake(parameter), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake(buffer))


def cases() -> list[tuple[str, str, str, int]]:
    """Return backbone ("" for that of the configuration), architecture, mixing and micro-batch of each case.

    Mixing comes before the student's forward pass, so it depends on neither backbone nor micro-batches.
    """
    backbones = ("", *(TIMM_BACKBONES if find_spec("timm") else ()))
    whole = itertools.product(backbones, (*LABELS_ALONE, *SEMI_SUPERVISED), ("labeled",), (0, 2))
    mixing = itertools.product(("",), SEMI_SUPERVISED, ("none", "cutmix", "classmix"), (0,))
    return [*whole, *mixing]


def forward_on_fake_cuda(config_file: str, overrides: list[str], case: tuple[str, str, str, int]) -> None:
    """Run the forward pass of the first step after burn-in; an operation that mixes devices raises RuntimeError."""
    backbone, architecture, mixing, size = case
    settings = f"""
        MODEL.META_ARCHITECTURE {architecture} MODEL.SEMI_SUPERVISED.MIX {mixing} SOLVER.IMS_PER_PASS {size}
        MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 0 SOLVER.AMP.ENABLED False
    """.split()
    if architecture == "UniMatch":
        settings += "MODEL.SEMI_SUPERVISED.STRONG_VIEWS 2 MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT 0.5".split()
    if backbone:
        settings += ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", backbone]
    cfg = load_config(config_file, [*overrides, *settings]).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"  # Nothing is initialised.
    with torch.device("meta"):
        model = build_model_or_explain(cfg)
        teacher = EMATeacher.from_config(cfg, model)
    with FakeTensorMode(), EventStorage(0):
        move_to_cuda(model)
        move_to_cuda(teacher.model)
        if teacher.labeler is not None:
            teacher.labeler.kappa = fake(teacher.labeler.kappa)
        batch = random_batch(cfg, model.uses_unlabeled)
        step = ForwardStep(cfg, model, [batch], build_optimizer(cfg, model), teacher)
        step.iter = 0
        step.run_step()


def check(args: argparse.Namespace) -> int:
    """Print a table with one row for each case."""
    if not torch.backends.cuda.is_built():
        raise InputError(f"torch {torch.__version__} is built without CUDA; install a build with CUDA (no GPU needed).")
    if HOST != "embedded":
        raise InputError("Detectron2's ImageList reads values, which fake tensors lack; set RC2L_HOST=embedded.")
    rows = []
    for case in cases():
        try:
            forward_on_fake_cuda(args.config_file, args.opts, case)
            result = "passed"
        except RuntimeError as error:
            result = f"FAILED: {error}"
        rows.append((*case, result))
    columns = ["backbone", "architecture", "mixing", "images in a micro-batch", "forward pass"]
    print(tabulate(rows, columns))
    return int(any(row[-1] != "passed" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    raise SystemExit(run_cli(parser, check))

"""Optimizer and learning rate as MaskFormer's users set them."""

from __future__ import annotations

import torch
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

from ..errors import InputError
from ..host import CfgNode

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def learning_rate(cfg: CfgNode) -> float:
    """SOLVER.BASE_LR, in proportion to SOLVER.IMS_PER_BATCH where SOLVER.REFERENCE_IMS_PER_BATCH says what it is for.

    In proportion as Detectron2 scales it (``auto_scale_workers``). For AdamW, of which MaskFormer leaves the question
    open, theory has the square root: in proportion a smaller batch, the usual case, errs on the side of a small rate.
    """
    solver = cfg.SOLVER
    if not solver.REFERENCE_IMS_PER_BATCH:
        return solver.BASE_LR
    return solver.BASE_LR * (solver.IMS_PER_BATCH / solver.REFERENCE_IMS_PER_BATCH)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over ``model``'s trainable parameters.

    Biases and weights decay by SOLVER.WEIGHT_DECAY, normalisation layers by WEIGHT_DECAY_NORM, embeddings by
    WEIGHT_DECAY_EMBED; the backbone learns at BACKBONE_MULTIPLIER times :func:`learning_rate`. Both are fused, which is
    faster, and can leave out an update without that the host looks (their ``found_inf``).

    Raises:
        InputError: SOLVER.OPTIMIZER is neither "ADAMW" nor "SGD".
    """
    base = learning_rate(cfg)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            lr, decay = base, cfg.SOLVER.WEIGHT_DECAY
            if module_name.startswith("backbone"):
                lr *= cfg.SOLVER.BACKBONE_MULTIPLIER
            if isinstance(module, _NORMS):
                decay = cfg.SOLVER.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding):
                decay = cfg.SOLVER.WEIGHT_DECAY_EMBED
            groups.setdefault((lr, decay), []).append(parameter)
    parameters = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        return torch.optim.AdamW(parameters, base, fused=True)
    if cfg.SOLVER.OPTIMIZER == "SGD":
        momentum = cfg.SOLVER.MOMENTUM
        optimizer = torch.optim.SGD(parameters, base, momentum=momentum, nesterov=cfg.SOLVER.NESTEROV, fused=True)
        if momentum:
            # Torch's own are not initialised where the first update is left out.
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    raise InputError(f'SOLVER.OPTIMIZER is "{cfg.SOLVER.OPTIMIZER}", which is not known; say "ADAMW" or "SGD".')


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over SOLVER.WARMUP_ITERS from WARMUP_FACTOR, times polynomial decay to zero at MAX_ITER.

    Raises:
        InputError: SOLVER.LR_SCHEDULER_NAME is not "WarmupPolyLR".
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        raise InputError(
            f'SOLVER.LR_SCHEDULER_NAME is "{solver.LR_SCHEDULER_NAME}", which is not known here; say "WarmupPolyLR".'
        )
    decay = PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER)

    def factor(iteration: int) -> float:
        warmup = 1.0
        if iteration < solver.WARMUP_ITERS:
            warmup = solver.WARMUP_FACTOR + (1 - solver.WARMUP_FACTOR) * iteration / solver.WARMUP_ITERS
        return warmup * decay(min(iteration / solver.MAX_ITER, 1.0))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

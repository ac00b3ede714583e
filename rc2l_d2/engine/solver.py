"""Optimizer and learning rate schedule, with MaskFormer's settings."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ..host import CfgNode, comm
from ..modeling.backbones import TimmBackbone

logger = logging.getLogger(__name__)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def learning_rate(cfg: CfgNode) -> float:
    """Return SOLVER.BASE_LR times SOLVER.IMS_PER_BATCH / SOLVER.REFERENCE_IMS_PER_BATCH (unscaled if that is 0).

    Linear as in Detectron2; a square root would suit AdamW too, but errs on the side of a large rate.
    """
    solver = cfg.SOLVER
    if not solver.REFERENCE_IMS_PER_BATCH:
        return solver.BASE_LR
    return solver.BASE_LR * (solver.IMS_PER_BATCH / solver.REFERENCE_IMS_PER_BATCH)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return fused AdamW or SGD, which can skip an update on the device (``found_inf``), over trainable parameters.

    Weight decay: SOLVER.WEIGHT_DECAY_NORM for normalisation layers, WEIGHT_DECAY_EMBED for embeddings, WEIGHT_DECAY for
    the rest. The backbone learns at BACKBONE_MULTIPLIER times :func:`learning_rate`, each stage of a backbone of timm
    also at MODEL.TIMM.LAYER_DECAY times the rate of the next one. A module with a ``rate_factor`` learns at that many
    times the rate. With SOLVER.SHARD_OPTIMIZER its state is sharded over the ranks.
    """
    base, solver = learning_rate(cfg), cfg.SOLVER
    if base != solver.BASE_LR:
        logger.info(
            "The learning rate is %g: SOLVER.BASE_LR %g is for %d labelled images a step "
            "(SOLVER.REFERENCE_IMS_PER_BATCH) and SOLVER.IMS_PER_BATCH is %d; a reference of 0 turns this off.",
            base, solver.BASE_LR, solver.REFERENCE_IMS_PER_BATCH, solver.IMS_PER_BATCH,
        )  # fmt: skip
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        decay, factor = solver.WEIGHT_DECAY, getattr(module, "rate_factor", 1.0)
        if isinstance(module, _NORMS):
            decay = solver.WEIGHT_DECAY_NORM
        elif isinstance(module, nn.Embedding):
            decay = solver.WEIGHT_DECAY_EMBED
        for parameter_name, parameter in module.named_parameters(module_name, recurse=False):
            if parameter.requires_grad:
                lr = base * factor * _rate_factor(cfg, model, parameter_name)
                groups.setdefault((lr, decay), []).append(parameter)
    parameters = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    settings = {"lr": base, "fused": True}
    if solver.OPTIMIZER == "SGD":
        kind = torch.optim.SGD
        settings |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    optimizer, local = _optimizer(kind, parameters, settings, solver.SHARD_OPTIMIZER)
    if settings.get("momentum"):
        # Torch leaves its momentum buffers uninitialised if the first update is skipped.
        for parameter in (p for group in local.param_groups for p in group["params"]):
            local.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _optimizer(
    kind: type[torch.optim.Optimizer], parameters: list[dict], settings: dict, sharded: bool
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return the optimizer, and the one that holds this rank's state: the same, unless the state is sharded."""
    ranks = comm.get_world_size()
    if sharded and ranks > 1:
        # Here, because torch.distributed.optim takes a while to import.
        from .sharded_optimizer import ShardedOptimizer

        logger.info("The optimizer's state is sharded over %d ranks (SOLVER.SHARD_OPTIMIZER).", ranks)
        optimizer = ShardedOptimizer(parameters, kind, **settings)
        return optimizer, optimizer.optim
    if sharded:
        logger.info("SOLVER.SHARD_OPTIMIZER has no effect on a run with one rank.")
    whole = kind(parameters, **settings)
    return whole, whole


def _rate_factor(cfg: CfgNode, model: nn.Module, parameter: str) -> float:
    if not parameter.startswith("backbone."):
        return 1.0
    factor, backbone = cfg.SOLVER.BACKBONE_MULTIPLIER, model.backbone
    if not isinstance(backbone, TimmBackbone):
        return factor
    depth = backbone.depth_of(parameter.removeprefix("backbone."))
    # The pyramid of a plain ViT has no pretrained weights.
    return 1.0 if depth is None else factor * cfg.MODEL.TIMM.LAYER_DECAY ** (backbone.last_depth - depth)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a linear warm-up (SOLVER.WARMUP_ITERS, WARMUP_FACTOR) times a polynomial decay to zero at MAX_ITER."""
    solver = cfg.SOLVER

    def factor(iteration: int) -> float:
        warmup = 1.0
        if iteration < solver.WARMUP_ITERS:
            warmup = solver.WARMUP_FACTOR + (1 - solver.WARMUP_FACTOR) * iteration / solver.WARMUP_ITERS
        return warmup * max(0.0, 1 - iteration / solver.MAX_ITER) ** solver.POLY_LR_POWER

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

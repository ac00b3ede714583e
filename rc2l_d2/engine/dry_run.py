"""Description of a run before it starts."""

from __future__ import annotations

import os
from typing import Literal

from tabulate import tabulate

from ..config_files import find_model_file, find_weights_file
from ..data import dataset_status
from ..host import HOST, HOST_REASON, CfgNode
from ..modeling import RegionHead, RegionSegmentor, SemiSupervisedSegmentor
from ..modeling.backbones import TimmBackbone
from .precision import describe_precision
from .setup import build_model_or_explain
from .solver import learning_rate

Rows = list[tuple[str, str]]


def describe_plan(cfg: CfgNode) -> str:
    """Return the plan of a run as text: host, model, data, losses, schedule, and the files it would write.

    Builds the model without weights on the CPU and reads lists of files, and labels where a sample is balanced, but no
    image. Missing data are listed.
    """
    on_cpu = cfg.clone()
    on_cpu.defrost()
    on_cpu.MODEL.DEVICE = "cpu"
    model = build_model_or_explain(on_cpu)
    data, counts = _data(cfg, model.uses_unlabeled)
    rows = [("host", f"{HOST} ({HOST_REASON})"), *_model(cfg, model), *data, *_losses(cfg, model)]
    # "" as the title continues the row above.
    return tabulate([*rows, *_schedule(cfg, model, counts), *_output(cfg)], tablefmt="plain")


def _model(cfg: CfgNode, model: RegionSegmentor) -> Rows:
    name, weights = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS
    backbone = f"ResNet-{cfg.MODEL.RESNETS.DEPTH}" if "resnet" in name else name
    if isinstance(model.backbone, TimmBackbone):
        backbone = f"{cfg.MODEL.TIMM.NAME} (timm)"
        weights = weights or cfg.MODEL.TIMM.CHECKPOINT
        if not weights and cfg.MODEL.TIMM.PRETRAINED:
            weights = f"backbone from timm's hub://{cfg.MODEL.TIMM.NAME}"
    if weights and "://" not in weights and not os.path.isfile(find_model_file(find_weights_file(weights))):
        weights = f"{weights}: MISSING (searched {os.path.abspath(weights)})"
    size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    if isinstance(model.sem_seg_head, RegionHead):
        size += f", {model.sem_seg_head.predictor.num_queries} queries"
        if cfg.MODEL.MASK_FORMER.MATCHING == "hungarian":
            size += f", {cfg.MODEL.MASK_FORMER.DEC_LAYERS} decoder layers"
    return [
        ("model", f"{cfg.MODEL.META_ARCHITECTURE}, {backbone}"),
        ("", f"{size}, {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes"),
        ("weights", weights or "none, from scratch"),
        ("device", f"{cfg.MODEL.DEVICE}, {describe_precision(cfg)}"),
    ]


def _data(cfg: CfgNode, uses_unlabeled: bool) -> tuple[Rows, dict[str, int]]:
    """Return rows, and the number of images of each stream that is complete."""
    data, solver = cfg.DATASETS, cfg.SOLVER
    streams = [("labelled", "TRAIN", data.LABELED_LIST, f"{solver.IMS_PER_BATCH} a step")]
    if uses_unlabeled:
        streams.append(("unlabelled", "UNLABELED", data.UNLABELED_LIST, f"{solver.IMS_PER_BATCH_UNLABELED} a step"))
    rows, counts = [], {}
    for stream, key, list_file, use in [*streams, ("test", "TEST", "", "all")]:
        labels: Literal["none", "all"] = "none" if key == "UNLABELED" else "all"
        found = [dataset_status(name, labels, f"DATASETS.{key}", list_file) for name in data[key]]
        for status in found:
            listed = f" listed in {list_file}" if list_file else ""
            images = f"{status.num_images} images, {use}" if status.found else f"MISSING: {status.problem}."
            searched = f" (searched {', '.join(status.paths)})" if status.paths else ""
            rows.append((stream, f"{status.name}{listed}: {images}{searched}"))
        if found and all(status.found and status.num_images for status in found):
            counts[stream] = sum(status.num_images or 0 for status in found)
    return rows, counts


def _losses(cfg: CfgNode, model: RegionSegmentor) -> Rows:
    supervised = _weights(model.criterion.loss_weights)
    keys = cfg.MODEL.MASK_FORMER
    if isinstance(model.sem_seg_head, RegionHead) and keys.MATCHING == "hungarian" and keys.DEEP_SUPERVISION:
        supervised += f", on {keys.DEC_LAYERS} decoder layer(s)"
    rows = [("losses", supervised)]
    if isinstance(model, SemiSupervisedSegmentor):
        weights = {name: model.loss_weight * weight for name, weight in model.loss_weights.items()}
        rows.append(("", f"{_weights(weights)}, on the last"))
        keys = cfg.MODEL.SEMI_SUPERVISED
        views = f"{keys.STRONG_VIEWS} strong view{'s' if keys.STRONG_VIEWS > 1 else ''} of an image"
        if keys.FEATURE_DROPOUT:
            views += f", and its weak view without {keys.FEATURE_DROPOUT:g} of the feature channels"
        rows.append(("", f"pseudo labels selected by {model.selection.unit}; mixing {keys.MIX}; {views}"))
    return rows


def _schedule(cfg: CfgNode, model: RegionSegmentor, counts: dict[str, int]) -> Rows:
    solver, method, rate = cfg.SOLVER, cfg.MODEL.SEMI_SUPERVISED, f"{learning_rate(cfg):g}"
    if learning_rate(cfg) != solver.BASE_LR:
        rate += f" ({solver.BASE_LR:g} for {solver.REFERENCE_IMS_PER_BATCH} images a step)"
    evaluated = f"every {cfg.TEST.EVAL_PERIOD}" if cfg.TEST.EVAL_PERIOD else "at the end"
    rows = [("schedule", f"{solver.MAX_ITER} iterations, {solver.OPTIMIZER}, learning rate {rate}, "
                         f"warm-up {solver.WARMUP_ITERS}, evaluation {evaluated}")]  # fmt: skip
    if model.uses_unlabeled:
        rows.append(("", f"burn-in {method.BURN_IN_ITERS}, ramp-up {method.RAMP_UP_ITERS}, "
                         f"EMA decay {method.EMA_DECAY:g}"))  # fmt: skip
    burned_in = max(0, solver.MAX_ITER - method.BURN_IN_ITERS)
    for stream, seen, end in (
        ("labelled", solver.MAX_ITER * solver.IMS_PER_BATCH, ""),
        ("unlabelled", burned_in * solver.IMS_PER_BATCH_UNLABELED, " after burn-in"),
    ):
        if stream in counts:
            rows.append(("", f"{seen / counts[stream]:.1f} epochs of {stream} images{end}"))
    return rows


def _output(cfg: CfgNode) -> Rows:
    solver, out = cfg.SOLVER, cfg.OUTPUT_DIR
    kept = f"the newest {solver.CHECKPOINT_KEEP} are kept" if solver.CHECKPOINT_KEEP else "all are kept"
    has_run = os.path.exists(os.path.join(out, "last_checkpoint"))
    return [
        ("checkpoint", f"every {solver.CHECKPOINT_PERIOD} iterations, {kept}"),
        ("seed", str(cfg.SEED) if cfg.SEED >= 0 else "random"),
        ("output", out + (" (holds a run: continue with --resume, or use another folder)" if has_run else "")),
    ]


def _weights(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} x {weight:g}" for name, weight in losses.items() if weight > 0)

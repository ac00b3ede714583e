"""What a run would do, in words, before it does it."""

from __future__ import annotations

import os

from tabulate import tabulate

from ..data import dataset_status
from ..host import HOST, HOST_REASON, CfgNode
from .setup import build_model_or_explain


def describe_plan(cfg: CfgNode) -> str:
    """The plan of a run in words, see :func:`plan_rows`, and the host that it would have."""
    return tabulate([("host", f"{HOST} ({HOST_REASON})"), *plan_rows(cfg)], tablefmt="plain")


def plan_rows(cfg: CfgNode) -> list[tuple[str, str]]:
    """What a run is, in words: model size, data sets found or missing, images a step, losses and schedule.

    Builds the model (on the CPU, without weights), reads lists of files but no image, and never fails for missing data.

    Returns:
        pairs of what is told of, "" where it is what the row before is told of, and what it is.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model_or_explain(cfg)
    semi_supervised = model.uses_unlabeled
    solver, method, decoder = cfg.SOLVER, cfg.MODEL.RC2L, cfg.MODEL.MASK_FORMER

    rows = [
        (
            "model",
            f"{cfg.MODEL.META_ARCHITECTURE}, ResNet-{cfg.MODEL.RESNETS.DEPTH}"
            if "resnet" in cfg.MODEL.BACKBONE.NAME
            else f"{cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}",
        ),
        (
            "",
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
            f"{decoder.NUM_OBJECT_QUERIES} queries, {decoder.DEC_LAYERS} decoder layers, "
            f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes",
        ),
        ("weights", _weights_found(cfg.MODEL.WEIGHTS)),
    ]
    data = cfg.DATASETS
    streams = [("labelled", "TRAIN", data.LABELED_LIST, f"{solver.IMS_PER_BATCH} a step")]
    if semi_supervised:
        unlabeled = ("unlabelled", "UNLABELED", data.UNLABELED_LIST, f"{solver.IMS_PER_BATCH_UNLABELED} a step")
        streams.append(unlabeled)
    streams.append(("test", "TEST", "", "all"))
    for stream, key, list_file, use in streams:
        for name in data[key]:
            status = dataset_status(name, "none" if key == "UNLABELED" else "all", f"DATASETS.{key}", list_file)
            images = f"{status.num_images} images, {use}" if status.found else f"MISSING: {status.problem}"
            listed = f" listed in {list_file}" if list_file else ""
            looked_at = f" (looked at {', '.join(status.paths)})" if status.paths else ""
            rows.append((stream, f"{name}{listed}: {images}{looked_at}"))
    rows.append(("crop", f"{cfg.INPUT.CROP.SIZE[0]} x {cfg.INPUT.CROP.SIZE[1]} pixels"))
    supervised = {"loss_ce": 1.0, "loss_mask": decoder.MASK_WEIGHT, "loss_dice": decoder.DICE_WEIGHT}
    layers = decoder.DEC_LAYERS if decoder.DEEP_SUPERVISION else 1
    rows.append(("losses", _weights(supervised) + f", on {layers} decoder layer(s)"))
    if semi_supervised:
        rows.append(("", _weights({name: w for name, w in model.loss_weights.items() if w > 0}) + ", on the last"))
    rows.append(
        (
            "schedule",
            f"{solver.MAX_ITER} iterations, {solver.OPTIMIZER}, learning rate {solver.BASE_LR:g}, "
            f"warm-up {solver.WARMUP_ITERS}, evaluation every {cfg.TEST.EVAL_PERIOD}",
        )
    )
    if semi_supervised:
        rows.append(
            (
                "",
                f"burn-in {method.BURN_IN_ITERS}, ramp-up {method.RAMP_UP_ITERS}, EMA decay "
                f"{method.EMA_DECAY:g}, mixing {method.MIX}",
            )
        )
    rows.append(("output", cfg.OUTPUT_DIR))
    return rows


def _weights(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} x {weight:g}" for name, weight in losses.items())


def _weights_found(path: str) -> str:
    if not path:
        return "none, from scratch"
    return path if "://" in path or os.path.isfile(path) else f"{path}: MISSING (looked at {os.path.abspath(path)})"

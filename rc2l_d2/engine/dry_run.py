"""What a run would do, in words, before it does it."""

from __future__ import annotations

import os

from tabulate import tabulate
from torch import nn

from ..data import dataset_status
from ..host import HOST, HOST_REASON, CfgNode
from .setup import build_model_or_explain
from .solver import learning_rate

Rows = list[tuple[str, str]]


def describe_plan(cfg: CfgNode) -> str:
    """The plan of a run: the host that it would have, :func:`plan_rows`, and what it would write."""
    model = _model_on_cpu(cfg)
    rows = [("host", f"{HOST} ({HOST_REASON})"), *_rows(cfg, model), *_output(cfg, model)]
    return tabulate(rows, tablefmt="plain")


def plan_rows(cfg: CfgNode) -> Rows:
    """What a run is, in words: model, data found or missing, what a step takes, losses, schedule.

    Builds the model (on the CPU, without weights), reads lists of files but no image, and never fails for missing data.

    Returns:
        pairs of what is told of, "" where it is what the row before is told of, and what it is.
    """
    return _rows(cfg, _model_on_cpu(cfg))


def _rows(cfg: CfgNode, model: nn.Module) -> Rows:
    data, counts = _data(cfg, model.uses_unlabeled)
    return [*_model(cfg, model), *data, *_views(cfg), *_losses(cfg, model), *_schedule(cfg, model, counts)]


def _model_on_cpu(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return build_model_or_explain(cfg)


def _model(cfg: CfgNode, model: nn.Module) -> Rows:
    decoder, name = cfg.MODEL.MASK_FORMER, cfg.MODEL.BACKBONE.NAME
    backbone = f"ResNet-{cfg.MODEL.RESNETS.DEPTH}" if "resnet" in name else name
    precision = "float32"
    if cfg.SOLVER.AMP.ENABLED:
        precision = ("bfloat16" if cfg.MODEL.DEVICE == "cpu" else "float16") + " mixed with float32"
    return [
        ("model", f"{cfg.MODEL.META_ARCHITECTURE}, {backbone}"),
        (
            "",
            f"{_parameters(model) / 1e6:.1f} M parameters, {decoder.NUM_OBJECT_QUERIES} queries, "
            f"{decoder.DEC_LAYERS} decoder layers, {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes",
        ),
        ("weights", _weights_found(cfg.MODEL.WEIGHTS)),
        ("device", f"{cfg.MODEL.DEVICE}, {precision}"),
    ]


def _data(cfg: CfgNode, semi_supervised: bool) -> tuple[Rows, dict[str, int]]:
    """What is there of each data set; and images by stream, where all of a stream are there."""
    data, solver = cfg.DATASETS, cfg.SOLVER
    streams = [("labelled", "TRAIN", data.LABELED_LIST, f"{solver.IMS_PER_BATCH} a step")]
    if semi_supervised:
        unlabeled = ("unlabelled", "UNLABELED", data.UNLABELED_LIST, f"{solver.IMS_PER_BATCH_UNLABELED} a step")
        streams.append(unlabeled)
    streams.append(("test", "TEST", "", "all"))
    rows, counts = [], {}
    for stream, key, list_file, use in streams:
        found = []
        for name in data[key]:
            status = dataset_status(name, "none" if key == "UNLABELED" else "all", f"DATASETS.{key}", list_file)
            images = f"{status.num_images} images, {use}" if status.found else f"MISSING: {status.problem}"
            listed = f" listed in {list_file}" if list_file else ""
            looked_at = f" (looked at {', '.join(status.paths)})" if status.paths else ""
            rows.append((stream, f"{name}{listed}: {images}{looked_at}"))
            found.append(status.num_images if status.found else 0)
        if found and all(found):
            counts[stream] = sum(found)
    return rows, counts


def _views(cfg: CfgNode) -> Rows:
    crop, window, augmented = cfg.INPUT.CROP.SIZE, cfg.TEST.SLIDING_WINDOW, cfg.TEST.AUG
    at_once = f", {cfg.SOLVER.IMS_PER_PASS} through the model at a time" if cfg.SOLVER.IMS_PER_PASS else ""
    short = cfg.INPUT.MIN_SIZE_TEST
    sizes = [", ".join(map(str, augmented.MIN_SIZES))] if augmented.ENABLED else [str(short)] if short else []
    tested = [f"shortest side {size} pixels" for size in sizes] or ["at the images' own size"]
    if augmented.ENABLED and augmented.FLIP:
        tested.append("also mirrored")
    if window.ENABLED:
        height, width = window.CROP_SIZE
        tested.append(f"by windows of {height} x {width} pixels, {window.STRIDE[0]} x {window.STRIDE[1]} apart")
    return [
        ("crop", f"{crop[0]} x {crop[1]} pixels{at_once}"),
        ("tested", ", ".join(tested)),
    ]


def _losses(cfg: CfgNode, model: nn.Module) -> Rows:
    decoder = cfg.MODEL.MASK_FORMER
    supervised = {"loss_ce": 1.0, "loss_mask": decoder.MASK_WEIGHT, "loss_dice": decoder.DICE_WEIGHT}
    layers = decoder.DEC_LAYERS if decoder.DEEP_SUPERVISION else 1
    rows = [("losses", _weights(supervised) + f", on {layers} decoder layer(s)")]
    if model.uses_unlabeled:
        rows.append(("", _weights({name: w for name, w in model.loss_weights.items() if w > 0}) + ", on the last"))
        chosen = model.selection
        floor = f" and above {chosen.floor:g}" if chosen.floor else ""
        rows.append(
            (
                "",
                f"on pseudo labels chosen by {chosen.unit}, where the confidence is above {chosen.ratio:g} times the "
                f"mean of the class{floor}; mixing {cfg.MODEL.SEMI_SUPERVISED.MIX}",
            )
        )
    return rows


def _schedule(cfg: CfgNode, model: nn.Module, counts: dict[str, int]) -> Rows:
    solver, method = cfg.SOLVER, cfg.MODEL.SEMI_SUPERVISED
    rate = f"{learning_rate(cfg):g}"
    if learning_rate(cfg) != solver.BASE_LR:
        rate += f" ({solver.BASE_LR:g} for {solver.REFERENCE_IMS_PER_BATCH} images a step)"
    evaluated = f"every {cfg.TEST.EVAL_PERIOD}" if cfg.TEST.EVAL_PERIOD else "at the end"
    rows = [
        (
            "schedule",
            f"{solver.MAX_ITER} iterations, {solver.OPTIMIZER}, learning rate {rate}, warm-up {solver.WARMUP_ITERS}, "
            f"evaluation {evaluated}",
        )
    ]
    if model.uses_unlabeled:
        periods = f"burn-in {method.BURN_IN_ITERS}, ramp-up {method.RAMP_UP_ITERS}, EMA decay {method.EMA_DECAY:g}"
        rows.append(("", periods))
    seen = []
    if "labelled" in counts:
        seen.append(f"each labelled image {_times(solver.MAX_ITER * solver.IMS_PER_BATCH / counts['labelled'])}")
    if "unlabelled" in counts:
        steps = max(0, solver.MAX_ITER - method.BURN_IN_ITERS)
        share = solver.IMS_PER_BATCH_UNLABELED / counts["unlabelled"]
        seen.append(f"each unlabelled one {_times(steps * share)} after burn-in")
    if seen:
        rows.append(("", f"learns from {', '.join(seen)}"))
    return rows


def _output(cfg: CfgNode, model: nn.Module) -> Rows:
    solver, out = cfg.SOLVER, cfg.OUTPUT_DIR
    # Student, teacher and what the optimizer keeps of each parameter, four bytes each.
    copies = 4 if solver.OPTIMIZER == "ADAMW" else 3
    size = f"{4 * copies * _parameters(model) / 2**20:.0f} MB each"
    kept = f"the newest {solver.CHECKPOINT_KEEP} are kept" if solver.CHECKPOINT_KEEP else "all are kept"
    pictures = f"; pictures for TensorBoard every {cfg.VIS_PERIOD}" if cfg.VIS_PERIOD and model.uses_unlabeled else ""
    there = ""
    if os.path.exists(os.path.join(out, "last_checkpoint")):
        there = " (holds a run: go on with --resume, or name another folder)"
    return [
        ("checkpoint", f"every {solver.CHECKPOINT_PERIOD} iterations, about {size}, {kept}{pictures}"),
        ("seed", str(cfg.SEED) if cfg.SEED >= 0 else "another one each time"),
        ("output", f"{out}{there}"),
    ]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _times(number: float) -> str:
    return f"{number:.0f} times" if number >= 10 else f"{number:.1f} times"


def _weights(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} x {weight:g}" for name, weight in losses.items())


def _weights_found(path: str) -> str:
    if not path:
        return "none, from scratch"
    return path if "://" in path or os.path.isfile(path) else f"{path}: MISSING (looked at {os.path.abspath(path)})"

#!/usr/bin/env python3
"""How time and memory of the losses on unlabelled images grow with the feature map: regions beside pixels.

    python tools/dev/bench/growth.py [--sizes 24 32 48 64 96 128 192 256] [--device cuda] [--picture growth.png]

Regions: pseudo regions and the four losses, forward and backward. Pixels: InfoNCE between all pixel features of the two
views (``pixels/losses.py``, CONTRAST_SAMPLES 0), forward and backward, where it is expected to fit into ``--limit`` GB.
Both on the same random features; ratios are to the size ``--reference``.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cases import random_case  # noqa: E402
from measure import in_turn, machine, median_ms, peak_memory, run  # noqa: E402

from rc2l_d2.regions import (  # noqa: E402
    Regions,
    TeacherView,
    pixel_contrastive,  # noqa: E402
    pseudo_regions,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
    semantic_probabilities,
    soft_dice,
)

_MIN_AREA = 4


def region_losses(regions: Regions, view: TeacherView) -> None:
    pseudo = pseudo_regions(view, _MIN_AREA)
    semantic_map = semantic_probabilities(regions.class_logits, regions.mask_logits)
    similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    total = region_mask_contrastive(similarity, regions.class_logits, pseudo)
    total = total + region_feature_contrastive(semantic_map, regions.features, pseudo)
    total = total + region_class_consistency(similarity, regions.class_logits, pseudo)
    total = total + semantic_mask_consistency(semantic_map, pseudo)
    torch.autograd.grad(total, (regions.class_logits, regions.mask_logits, regions.features))


def pixel_losses(regions: Regions, view: TeacherView) -> None:
    torch.autograd.grad(pixel_contrastive(regions.features, view, None), regions.features)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[24, 32, 48, 64, 96, 128, 192, 256])
    parser.add_argument("--reference", type=int, default=64, help="the size that ratios are to")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=8.0, help="GB that the pixel loss may take")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.reference not in args.sizes:
        parser.error(f"--reference {args.reference} is none of --sizes; name one that is measured")
    device = torch.device(args.device)

    measured: dict[str, dict[int, tuple[float, float]]] = {"regions": {}, "pixels": {}}  # ms, MB
    for size in args.sizes:
        case = random_case(args.images, args.queries, args.classes, args.channels, size, device)
        for name, losses in (("regions", region_losses), ("pixels", pixel_losses)):
            if name == "pixels" and pixel_megabytes(args.images, size) > 1e3 * args.limit:
                continue
            seconds = in_turn({name: lambda losses=losses, case=case: losses(*case)}, args.rounds, device)
            megabytes = peak_memory(lambda losses=losses, case=case: losses(*case), device)
            measured[name][size] = median_ms(seconds, name), megabytes

    print(f"{args.images} images, {args.queries} queries, {args.classes} classes, {args.channels} channels")
    print(f"{machine(device)}; {args.rounds} rounds\n")
    rows = []
    for size in args.sizes:
        row = [f"{size}x{size}", (size / args.reference) ** 2]
        for points in measured.values():
            if size in points:
                of_reference = points.get(args.reference, (math.nan, math.nan))
                row += [*points[size], *(now / then for now, then in zip(points[size], of_reference, strict=True))]
            else:
                row += [None, pixel_megabytes(args.images, size), None, None]
        rows.append(row)
    columns = [f"{name}, {what}" for name in measured for what in ("ms", "MB", "x time", "x memory")]
    print(tabulate(rows, ["map", "x positions", *columns], floatfmt=".1f", missingval="-"))
    if len(measured["pixels"]) < len(args.sizes):
        print(f"Without a time: not run, for it needs more than the --limit of {args.limit} GB by calculation.")
    if args.picture:
        draw(measured, args.picture)
        print(f"Picture: {args.picture}")
    return 0


def pixel_megabytes(images: int, size: int) -> float:
    """What the pixel loss needs: matrices in float32 of all pairs of positions, five at a time (measured)."""
    return 5 * 4e-6 * (images * size * size) ** 2


def draw(measured: dict[str, dict[int, tuple[float, float]]], file: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    labels = {"regions": "regions: the four losses", "pixels": "pixels: InfoNCE over all positions"}
    for axis, column, unit in zip(figure.subplots(1, 2), (0, 1), ("time (ms)", "peak memory (MB)"), strict=True):
        for (name, points), style in zip(measured.items(), ("o-", "s--"), strict=True):
            axis.loglog(
                [s * s for s in points], [point[column] for point in points.values()], style, label=labels[name]
            )
        axis.set(xlabel="feature map, by its number of positions", ylabel=unit)
        sizes = [*measured["regions"]]
        axis.set_xticks([s * s for s in sizes], [f"{s}²" for s in sizes])
        axis.minorticks_off()
        axis.grid(color="0.9")
        axis.legend(frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    run(main)

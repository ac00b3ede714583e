"""Growth of time and memory of the unlabelled losses with the feature map: region losses and pixel contrast.

    python tools/dev/bench/growth.py [--sizes 24 32 48 64 96 128 192 256] [--device cuda] [--picture growth.png]

Regions: pseudo regions and the four losses, forward and backward. Pixels: InfoNCE between all pixel features of the two
views, forward and backward, left out if its estimated memory (in the table) exceeds ``--limit`` GB. Ratios are to the
size ``--reference``.
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from measure import in_turn, median_ms, options, peak_memory, print_table, random_case, run

from rc2l_d2 import regions as method
from rc2l_d2.regions import Regions, TeacherPrediction

_MIN_AREA = 4


def region_losses(regions: Regions, teacher: TeacherPrediction) -> None:
    pseudo = method.pseudo_regions(teacher, _MIN_AREA)
    semantic_map = method.semantic_probabilities(regions.class_logits, regions.mask_logits)
    similarity = method.soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    match = method.match_by_class(pseudo.present)
    total = method.region_mask_contrastive(similarity, match, pseudo)
    total = total + method.region_feature_contrastive(semantic_map, regions.features, pseudo)
    total = total + method.region_class_consistency(regions.class_logits, match, pseudo)
    total = total + method.semantic_mask_consistency(semantic_map, pseudo)
    torch.autograd.grad(total, (regions.class_logits, regions.mask_logits, regions.features))


def pixel_losses(regions: Regions, teacher: TeacherPrediction) -> None:
    torch.autograd.grad(method.pixel_contrastive(regions.features, teacher, torch.empty(0)), regions.features)


def pixel_megabytes(images: int, size: int) -> float:
    """Return the memory of the pixel loss: five float32 matrices of all pairs of pixels (the factor is measured)."""
    return 5 * 4e-6 * (images * size * size) ** 2


def main() -> None:
    parser = options(__doc__, rounds=5, images=4, classes=21, channels=256, reference=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[24, 32, 48, 64, 96, 128, 192, 256])
    parser.add_argument("--limit", type=float, default=8.0, help="largest memory of the pixel loss, GB")
    parser.add_argument("--picture", type=Path, help="file of a plot")
    args = parser.parse_args()

    measured: dict[str, dict[int, tuple[float, float]]] = {"regions": {}, "pixels": {}}  # ms, MB
    for size in args.sizes:
        case = random_case(args.images, args.classes, args.classes, args.channels, size, args.device)
        for name, losses in (("regions", region_losses), ("pixels", pixel_losses)):
            if name == "regions" or pixel_megabytes(args.images, size) <= 1e3 * args.limit:
                work = {name: lambda losses=losses, case=case: losses(*case)}
                time = median_ms(in_turn(work, args.rounds, args.device), name)
                measured[name][size] = time, peak_memory(work[name], args.device)

    rows = []
    for size in args.sizes:
        row = [f"{size}x{size}", (size / args.reference) ** 2]
        for points in measured.values():
            if size in points:
                reference = points.get(args.reference, (math.nan, math.nan))
                row += [*points[size], *(value / base for value, base in zip(points[size], reference, strict=True))]
            else:
                row += [None, pixel_megabytes(args.images, size), None, None]
        rows.append(row)
    columns = [f"{name}, {quantity}" for name in measured for quantity in ("ms", "MB", "x time", "x memory")]
    title = f"{args.images} images, {args.classes} classes, {args.channels} channels"
    columns = ["map", "x pixels", *columns]
    print_table(args, title, args.device, rows, columns, floatfmt=".1f", missingval="-")
    if args.picture:
        plot(measured, args.picture)
        print(f"Plot: {args.picture}")


def plot(measured: dict[str, dict[int, tuple[float, float]]], file: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    labels = {"regions": "regions: the four losses", "pixels": "pixels: InfoNCE over all pixels"}
    for axis, column, unit in zip(figure.subplots(1, 2), (0, 1), ("time (ms)", "peak memory (MB)"), strict=True):
        for (name, points), style in zip(measured.items(), ("o-", "s--"), strict=True):
            values = [point[column] for point in points.values()]
            axis.loglog([size**2 for size in points], values, style, label=labels[name])
        axis.set(xlabel="pixels of the feature map", ylabel=unit)
        sizes = list(measured["regions"])
        axis.set_xticks([size**2 for size in sizes], [f"{size}²" for size in sizes])
        axis.minorticks_off()
        axis.grid(color="0.9")
        axis.legend(frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    run(main)

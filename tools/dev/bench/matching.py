#!/usr/bin/env python3
"""Matching by class beside Hungarian matching as MaskFormer does it, on the same queries and pseudo regions.

    python tools/dev/bench/matching.py [--images 16] [--queries 100] [--classes 21] [--size 128] [--device cuda]

Hungarian: class, focal and Dice costs of every query and class, copied to the host, one assignment problem an image
(scipy). By class: a softmax and a product. The losses RMC and RCC also need the Dice similarity of queries and regions,
whichever matching is taken, so the second row has it on the side of the match by class, although Hungarian matching
pays for it as well, later; the third has both losses, forward and backward, with either.

Our Hungarian matching forms its costs in three products for all images and classes. Where Hugging Face transformers is
installed (the extra "bench"), two rows more have the matcher of its MaskFormer, which goes image by image through the
costs as MaskFormer's paper has them, given the regions at the masks' size.

Then both of ours get costs that are not finite, as a diverging model gives them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cases import random_case  # noqa: E402
from measure import in_turn, machine, median_ms, quartiles, ratio, run  # noqa: E402

from rc2l_d2.modeling.hungarian import assign_regions  # noqa: E402
from rc2l_d2.regions import (  # noqa: E402
    PseudoRegions,
    Regions,
    match_by_class,
    pseudo_regions,
    region_class_consistency,
    region_mask_contrastive,
    soft_dice,
)

try:
    from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher
except ImportError:
    MaskFormerHungarianMatcher = None

MASK_WEIGHT, DICE_WEIGHT = 20.0, 1.0  # MaskFormer's
# Matching doesn't look at features, and the blobs are all larger than this.
_CHANNELS, _MIN_AREA = 16, 4


def losses(regions: Regions, pseudo: PseudoRegions, assignment: torch.Tensor | None) -> None:
    similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    matched = similarity, regions.class_logits, pseudo
    total = region_mask_contrastive(*matched, assignment=assignment)
    total = total + region_class_consistency(*matched, assignment=assignment)
    total.backward()


def theirs(regions: Regions, pseudo: PseudoRegions) -> Callable[[], list]:
    """What transformers' MaskFormer does to match the queries with the regions that are there."""
    matcher = MaskFormerHungarianMatcher(1.0, MASK_WEIGHT, DICE_WEIGHT)
    masks = [of_image[there].float() for of_image, there in zip(pseudo.masks, pseudo.present, strict=True)]
    labels = [there.nonzero()[:, 0] for there in pseudo.present]
    return lambda: matcher(regions.mask_logits, regions.class_logits, masks, labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--size", type=int, default=128, help="of the masks, positions")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)
    regions, view = random_case(args.images, args.queries, args.classes, _CHANNELS, args.size, device)
    pseudo = pseudo_regions(view, _MIN_AREA)

    def hungarian() -> torch.Tensor:
        return assign_regions(regions, pseudo, MASK_WEIGHT, DICE_WEIGHT)

    def by_class() -> torch.Tensor:
        return match_by_class(regions.class_logits, pseudo.present)

    @torch.no_grad()
    def with_dice() -> None:
        by_class()
        soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)

    rows = {
        "matching": ("hungarian", "class"),
        "matching, Dice on one side": ("hungarian", "class + Dice"),
        "RMC + RCC with matching": ("losses, hungarian", "losses, class"),
    }
    parts = {
        "hungarian": hungarian,
        "class": by_class,
        "class + Dice": with_dice,
        "losses, hungarian": lambda: losses(regions, pseudo, hungarian()),
        "losses, class": lambda: losses(regions, pseudo, None),
    }
    if MaskFormerHungarianMatcher is not None:
        parts["transformers"] = theirs(regions, pseudo)
        rows["transformers' matching"] = ("transformers", "class")
        rows["transformers' matching, Dice on one side"] = ("transformers", "class + Dice")
    seconds = in_turn(parts, args.rounds, device)
    print(f"{args.images} images, {args.queries} queries, {args.classes} classes, {args.size}x{args.size} masks")
    print(f"{machine(device)}; {args.rounds} rounds\n")
    cells = [
        [what, median_ms(seconds, slow), median_ms(seconds, fast), quartiles(ratio(seconds, slow, fast))]
        for what, (slow, fast) in rows.items()
    ]
    print(tabulate(cells, ["", "Hungarian, ms", "by class, ms", "times as fast"], floatfmt=".2f"))

    for value in (float("nan"), float("inf"), -float("inf")):
        with torch.no_grad():
            regions.mask_logits[0] = value
        outcome = {name: bool(torch.isfinite(parts[name]()).all()) for name in ("hungarian", "class")}
        print(f"mask logits of one image all {value}: finite matches: {outcome}")
    return 0


if __name__ == "__main__":
    run(main)

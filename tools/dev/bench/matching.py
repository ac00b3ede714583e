"""Matching by class compared with Hungarian matching as in MaskFormer, on the same pseudo regions.

    python tools/dev/bench/matching.py [--images 16] [--queries 100] [--classes 21] [--size 128] [--device cuda]

Hungarian: class, focal and Dice costs of all queries, and one assignment problem per image on the host (scipy). By
class: one query for each class, and no computation but the match itself. RMC needs the Dice similarity with either
matching, so the second row adds it to matching by class; the third has RMC and RCC, forward and backward. Two more rows
have the matcher of transformers' MaskFormer.
"""

from collections.abc import Callable
from functools import partial

import torch
from measure import in_turn, median_ms, options, print_table, random_case, ratio, run

from rc2l_d2 import regions as method
from rc2l_d2.modeling.hungarian import assign_regions
from rc2l_d2.regions import PseudoRegions, Regions

try:
    from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher
except ImportError:
    MaskFormerHungarianMatcher = None

MASK_WEIGHT, DICE_WEIGHT = 20.0, 1.0  # MaskFormer's
_CHANNELS, _MIN_AREA = 16, 4  # matching uses no features, and all blobs are larger than this


def losses(regions: Regions, pseudo: PseudoRegions, match: torch.Tensor) -> None:
    similarity = method.soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    total = method.region_mask_contrastive(similarity, match, pseudo)
    total = total + method.region_class_consistency(regions.class_logits, match, pseudo)
    total.backward()


def transformers_matching(regions: Regions, pseudo: PseudoRegions) -> Callable[[], list]:
    """Return the matching of queries and present regions by transformers' MaskFormer."""
    matcher = MaskFormerHungarianMatcher(1.0, MASK_WEIGHT, DICE_WEIGHT)
    masks = [of_image[present].float() for of_image, present in zip(pseudo.masks, pseudo.present, strict=True)]
    labels = [present.nonzero()[:, 0] for present in pseudo.present]
    return lambda: matcher(regions.mask_logits, regions.class_logits, masks, labels)


def main() -> None:
    args = options(__doc__, rounds=10, images=16, queries=100, classes=21, size=128).parse_args()
    shape = args.classes, _CHANNELS, args.size, args.device
    regions, teacher = random_case(args.images, args.queries, *shape)
    class_queries, _ = random_case(args.images, args.classes, *shape)
    pseudo = method.pseudo_regions(teacher, _MIN_AREA)

    hungarian = partial(assign_regions, regions, pseudo, MASK_WEIGHT, DICE_WEIGHT)
    by_class = partial(method.match_by_class, pseudo.present)

    @torch.no_grad()
    def with_dice() -> None:
        by_class()
        method.soft_dice(class_queries.mask_logits, pseudo.masks, pseudo.valid)

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
        "losses, class": lambda: losses(class_queries, pseudo, by_class()),
    }
    if MaskFormerHungarianMatcher is not None:
        parts["transformers"] = transformers_matching(regions, pseudo)
        rows["transformers' matching"] = ("transformers", "class")
        rows["transformers' matching, Dice on one side"] = ("transformers", "class + Dice")
    seconds = in_turn(parts, args.rounds, args.device)
    cells = [
        [name, median_ms(seconds, slow), median_ms(seconds, fast), ratio(seconds, slow, fast)]
        for name, (slow, fast) in rows.items()
    ]
    title = f"{args.images} images, {args.queries} queries, {args.classes} classes, {args.size}x{args.size} masks"
    columns = ["", "Hungarian, ms", "by class, ms", "speed-up"]
    print_table(args, title, args.device, cells, columns, floatfmt=".2f")


if __name__ == "__main__":
    run(main)

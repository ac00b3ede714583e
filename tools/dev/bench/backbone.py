#!/usr/bin/env python3
"""Time and memory of a backbone of timm: plain, with channels-last images, and with activation checkpointing.

    python tools/dev/bench/backbone.py --name tf_efficientnet_lite0 [--images 16] [--height 128] [--width 160]

Forward and backward in training mode (batch norms in eval mode) with random weights, in turn. Memory is the peak of
what torch allocates.
"""

from __future__ import annotations

import torch
from measure import in_turn, median_ms, options, peak_memory, print_table, ratio, run

from rc2l_d2.engine import load_config
from rc2l_d2.host import build_backbone

VARIANTS = {"plain": {}, "channels-last": {"CHANNELS_LAST": True}, "checkpointing": {"GRAD_CHECKPOINTING": True}}


def main() -> None:
    parser = options(__doc__, rounds=7, images=16, height=128, width=160)
    parser.add_argument("--name", default="tf_efficientnet_lite0", help="name of the model in timm (%(default)s)")
    args = parser.parse_args()
    images = torch.randn(args.images, 3, args.height, args.width, device=args.device)
    common = {"META_ARCHITECTURE": "RC2L", "BACKBONE.NAME": "build_timm_backbone", "TIMM.NAME": args.name}
    common["TIMM.NORM_EVAL"] = True  # which checkpointing needs
    parts = {}
    for title, settings in VARIANTS.items():
        keys = {**common, **{f"TIMM.{key}": value for key, value in settings.items()}}
        cfg = load_config("", [word for key, value in keys.items() for word in (f"MODEL.{key}", str(value))])
        backbone = build_backbone(cfg).to(args.device).train()
        parts[title] = lambda backbone=backbone: sum(x.mean() for x in backbone(images).values()).backward()
    seconds = in_turn(parts, args.rounds, args.device)
    rows = [
        [title, median_ms(seconds, title), ratio(seconds, title, "plain"), peak_memory(part, args.device)]
        for title, part in parts.items()
    ]
    title = f"{args.name}, {args.images} images of {args.height}x{args.width}"
    print_table(args, title, args.device, rows, ["", "ms", "of plain", "peak, MB"], floatfmt=".0f")


if __name__ == "__main__":
    run(main)

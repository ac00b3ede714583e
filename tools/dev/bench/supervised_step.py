#!/usr/bin/env python3
"""The supervised step of our region predictor beside Hugging Face transformers' MaskFormer.

    pip install -e '.[bench]'
    python tools/dev/bench/supervised_step.py [--images 2] [--size 256] [--device cuda]

Same backbone (ResNet-50, trained batch normalisation), queries, decoder layers, deep supervision, loss weights, images
and masks: one mask a class of the image. Forward, matching and backward, in turn; the optimizer is nobody's part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY))

from measure import in_turn, machine, median_ms, peak_memory, quartiles, ratio, run  # noqa: E402

from rc2l_d2.engine import load_config  # noqa: E402
from rc2l_d2.host import build_model  # noqa: E402

try:
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig
except ImportError:
    print("supervised_step.py: transformers is not installed; pip install -e '.[bench]'", file=sys.stderr)
    sys.exit(2)

_CLASSES, _QUERIES, _LAYERS, _DROPOUT = 21, 100, 6, 0.1


def ours(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One step of a RegionSegmentor on images (B, 3, H, W) with labels (B, H, W)."""
    cfg = load_config(
        str(REPOSITORY / "configs/Base-R101.yaml"),
        ["MODEL.META_ARCHITECTURE", "RegionSegmentor", "MODEL.DEVICE", str(images.device), "MODEL.WEIGHTS", "",
         "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0",
         "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(_CLASSES), "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", str(_QUERIES),
         "MODEL.MASK_FORMER.DEC_LAYERS", str(_LAYERS), "MODEL.MASK_FORMER.DROPOUT", str(_DROPOUT)],
    )  # fmt: skip
    model = build_model(cfg).train()

    def step() -> None:
        model.zero_grad()
        sum(model.supervised_losses(model.regions(images), labels).values()).backward()

    return step


def theirs(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """The same of transformers."""
    config = MaskFormerConfig(
        backbone_config=ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        use_auxiliary_loss=True,
        num_labels=_CLASSES,
    )
    config.decoder_config.num_queries = _QUERIES
    config.decoder_config.decoder_layers = _LAYERS
    for place in ("dropout", "attention_dropout", "activation_dropout"):  # DETR's layers have it in all three
        setattr(config.decoder_config, place, _DROPOUT)
    model = MaskFormerForInstanceSegmentation(config).to(images.device).train()
    class_labels = [label.unique() for label in labels]
    mask_labels = [
        (label == classes[:, None, None]).float() for label, classes in zip(labels, class_labels, strict=True)
    ]

    def step() -> None:
        model.zero_grad()
        model(
            pixel_values=images, mask_labels=mask_labels, class_labels=class_labels, output_hidden_states=True
        ).loss.backward()

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="height and width of the images, pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.images, 3, args.size, args.size, generator=generator).to(device)
    coarse = torch.randint(0, _CLASSES, (args.images, 1, 3, 3), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(args.size, args.size))[:, 0].long().to(device)
    steps = {"rc2l_d2": ours(images, labels), "transformers": theirs(images, labels)}
    seconds = in_turn(steps, args.rounds, device)
    memory = {name: peak_memory(step, device) for name, step in steps.items()}

    print(f"ResNet-50, {args.images} images of {args.size}x{args.size}, {_QUERIES} queries, {_LAYERS} layers")
    print(f"{machine(device)}; {args.rounds} rounds\n")
    rows = [[name, median_ms(seconds, name), memory[name]] for name in steps]
    print(tabulate(rows, ["", "ms", "peak MB"], floatfmt=".0f"))
    print(f"\ntime, rc2l_d2 / transformers: {quartiles(ratio(seconds, 'rc2l_d2', 'transformers'))}")
    print(f"memory, rc2l_d2 / transformers: {memory['rc2l_d2'] / memory['transformers']:.3f}")
    return 0


if __name__ == "__main__":
    run(main)

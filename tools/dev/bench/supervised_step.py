"""The supervised step of class queries, of our MaskFormer, and of Hugging Face transformers' MaskFormer.

    python tools/dev/bench/supervised_step.py [--images 2] [--size 256] [--device cuda]

Same backbone (ResNet-50, trained batch norm), images and masks: one mask per class of the image. Both MaskFormers have
100 queries and the same decoders, deep supervision and loss weights. Class queries are 21, with DeepLabV3+'s decoder.
Forward, matching and backward, in turn, without an optimizer.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measure import in_turn, median_ms, options, peak_memory, print_table, ratio, run

from rc2l_d2.engine import load_config
from rc2l_d2.host import build_model

try:
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig
except ImportError:
    print("supervised_step.py: transformers is not installed; pip install -e '.[bench]'", file=sys.stderr)
    sys.exit(2)

_CONFIG = Path(__file__).resolve().parents[3] / "configs/Base-R101.yaml"
_CLASSES, _QUERIES, _LAYERS, _DROPOUT = 21, 100, 6, 0.1


def rc2l_step(images: torch.Tensor, labels: torch.Tensor, matching: str) -> Callable[[], None]:
    """Return one step of a RegionSegmentor on images (B, 3, H, W) with labels (B, H, W)."""
    overrides = {
        "META_ARCHITECTURE": "RegionSegmentor", "DEVICE": images.device, "WEIGHTS": "", "RESNETS.DEPTH": 50,
        "RESNETS.NORM": "BN", "BACKBONE.FREEZE_AT": 0, "SEM_SEG_HEAD.NUM_CLASSES": _CLASSES,
        "MASK_FORMER.MATCHING": matching, "MASK_FORMER.NUM_OBJECT_QUERIES": _QUERIES,
        "MASK_FORMER.DEC_LAYERS": _LAYERS, "MASK_FORMER.DROPOUT": _DROPOUT,
        "SEM_SEG_HEAD.PIXEL_DECODER_NAME": "ASPP" if matching == "class" else "FPN",
    }  # fmt: skip
    cfg = load_config(str(_CONFIG), [word for key, value in overrides.items() for word in (f"MODEL.{key}", str(value))])
    model = build_model(cfg).train()

    def step() -> None:
        model.zero_grad()
        sum(model.supervised_losses(model.regions(images), labels).values()).backward()

    return step


def transformers_step(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Return the same step of transformers' MaskFormer."""
    backbone = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = MaskFormerConfig(backbone_config=backbone, use_auxiliary_loss=True, num_labels=_CLASSES)
    config.decoder_config.num_queries = _QUERIES
    config.decoder_config.decoder_layers = _LAYERS
    for key in ("dropout", "attention_dropout", "activation_dropout"):  # DETR's layers have all three
        setattr(config.decoder_config, key, _DROPOUT)
    model = MaskFormerForInstanceSegmentation(config).to(images.device).train()
    classes = [label.unique() for label in labels]
    masks = [(label == present[:, None, None]).float() for label, present in zip(labels, classes, strict=True)]
    batch = {"pixel_values": images, "mask_labels": masks, "class_labels": classes}

    def step() -> None:
        model.zero_grad()
        model(**batch, output_hidden_states=True).loss.backward()

    return step


def main() -> None:
    args = options(__doc__, rounds=10, images=2, size=256).parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.images, 3, args.size, args.size, generator=generator).to(args.device)
    coarse = torch.randint(0, _CLASSES, (args.images, 1, 3, 3), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(args.size, args.size))[:, 0].long().to(args.device)
    steps = {matching: rc2l_step(images, labels, matching) for matching in ("class", "hungarian")}
    steps["transformers"] = transformers_step(images, labels)
    seconds = in_turn(steps, args.rounds, args.device)
    memory = {name: peak_memory(step, args.device) for name, step in steps.items()}
    rows = [[name, median_ms(seconds, name), memory[name]] for name in steps]
    title = f"ResNet-50, {args.images} images of {args.size}x{args.size}, {_LAYERS} layers"
    print_table(args, title, args.device, rows, ["", "ms", "peak MB"], floatfmt=".0f")
    for one, other in (("class", "hungarian"), ("class", "transformers"), ("hungarian", "transformers")):
        print(f"\ntime, {one} / {other}: {ratio(seconds, one, other)}")
        print(f"memory, {one} / {other}: {memory[one] / memory[other]:.3f}")


if __name__ == "__main__":
    run(main)

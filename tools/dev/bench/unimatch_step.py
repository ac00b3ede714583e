"""A whole step of RC2L beside one of UniMatch's own network, from a checkout of its code.

    git clone https://github.com/LiheYoung/UniMatch FOLDER
    python tools/dev/bench/unimatch_step.py FOLDER [--images 2] [--size 320] [--rounds 5] [--device cuda]

Both have a ResNet-50 with trained batch norm and random weights, 21 classes, and --images labelled and as many
unlabelled images of noise. Data loading is left out. UniMatch's step is written from its paper and its ``unimatch.py``:
its DeepLabV3+ (output stride 16) predicts the partners of CutMix, then labelled and weak images with and without half
of the feature channels, then two strong views; four losses, backward, SGD. RC2L's is the trainer's, with teacher, one
strong view, clipping, AdamW and the teacher's update; its largest stride is 32.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from measure import in_turn, median_ms, options, peak_memory, print_table, ratio, run, step_on_noise
from torch.nn import functional as F

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import EventStorage

_CONFIG = Path(__file__).resolve().parents[3] / "configs/voc2012/rc2l_R101.yaml"


def unimatch_step(checkout: Path, images: int, size: int, device: torch.device) -> Callable[[], None]:
    """Return a step of UniMatch's network with its settings for Pascal VOC."""
    settings = checkout / "configs/pascal.yaml"
    if not (checkout / "model/semseg/deeplabv3plus.py").is_file() or not settings.is_file():
        raise InputError(f"{checkout} is not a checkout of UniMatch's code; clone it there, or correct the path.")
    sys.path.insert(0, str(checkout))
    from model.backbone.resnet import resnet50
    from model.semseg.deeplabv3plus import DeepLabV3Plus

    config = yaml.safe_load(settings.read_text()) | {"backbone": "resnet50"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.mkdir("pretrained")  # where the network reads the weights of its backbone
        torch.save(resnet50().state_dict(), "pretrained/resnet50.pth")
        model = DeepLabV3Plus(config).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    generator = torch.Generator().manual_seed(0)
    labeled, weak, partner, *strong = torch.randn(5, images, 3, size, size, generator=generator).to(device)
    labels = torch.randint(0, config["nclass"], (images, size, size), generator=generator).to(device)
    box = torch.zeros(images, size, size, dtype=torch.bool, device=device)
    box[:, : size // 2, : size // 2] = True
    strong_views = [torch.where(box.unsqueeze(1), partner, view) for view in strong]

    def consistency(logits: torch.Tensor, confidence: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(logits, label, reduction="none")
        return (loss * (confidence >= config["conf_thresh"])).mean()

    def step() -> None:
        model.eval()
        with torch.no_grad():
            of_partner = model(partner).softmax(dim=1).max(dim=1)
        model.train()
        plain, dropped = model(torch.cat([labeled, weak]), True)
        logits = model(torch.cat(strong_views)).chunk(2)
        of_weak = plain[images:].detach().softmax(dim=1).max(dim=1)
        mixed = [torch.where(box, other, own) for other, own in zip(of_partner, of_weak, strict=True)]
        loss = F.cross_entropy(plain[:images], labels)
        loss = loss + 0.25 * (consistency(logits[0], *mixed) + consistency(logits[1], *mixed))
        loss = (loss + 0.5 * consistency(dropped[images:], *of_weak)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rc2l_step(architecture: str, images: int, size: int, device: torch.device) -> Callable[[], None]:
    """Return the trainer's step of an architecture after burn-in."""
    overrides = {
        "MODEL.META_ARCHITECTURE": architecture, "MODEL.DEVICE": device, "MODEL.WEIGHTS": "", "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "BN", "INPUT.CROP.SIZE": (size, size), "SOLVER.IMS_PER_BATCH": images,
        "SOLVER.IMS_PER_BATCH_UNLABELED": images, "SOLVER.AMP.ENABLED": False, "DATASETS.DEFINITIONS": (),
    }  # fmt: skip
    if architecture == "UniMatch":
        overrides |= {"MODEL.SEMI_SUPERVISED.STRONG_VIEWS": 2, "MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT": 0.5}
    cfg = load_config(str(_CONFIG), [word for key, value in overrides.items() for word in (key, str(value))])
    return step_on_noise(cfg)[1]


def main() -> None:
    parser = options(__doc__, rounds=5, images=2, size=320)
    parser.add_argument("checkout", type=Path, metavar="FOLDER", help="checkout of UniMatch's code")
    args = parser.parse_args()
    steps = {"UniMatch": unimatch_step(args.checkout.resolve(), args.images, args.size, args.device)}
    for name, architecture in {"RC2L": "RC2L", "our UniMatch": "UniMatch"}.items():
        steps[name] = rc2l_step(architecture, args.images, args.size, args.device)
    with EventStorage():
        seconds = in_turn(steps, args.rounds, args.device, warmup=1)
        rows = [[name, median_ms(seconds, name), peak_memory(step, args.device)] for name, step in steps.items()]
    title = f"ResNet-50, {args.images} + {args.images} images of {args.size}x{args.size}, float32"
    print_table(args, title, args.device, rows, ["", "ms", "peak MB"], floatfmt=".0f")
    for name in ("RC2L", "our UniMatch"):
        print(f"\ntime, {name} / UniMatch: {ratio(seconds, name, 'UniMatch')}")


if __name__ == "__main__":
    run(main)

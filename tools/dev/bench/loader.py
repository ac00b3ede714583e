#!/usr/bin/env python3
"""Images a second and core that the mappers read and augment, beside a straightforward PIL implementation.

    python tools/dev/bench/loader.py --config-file configs/camvid/rc2l_R18_1_8.yaml [--images 40] [KEY VALUE ...]

The same files, the same drawn geometry, crop and views, the same tensors in the end. PIL does it as UniMatch's data
sets do: Image.resize, transpose and crop, ImageEnhance for the jitter, ImageFilter for the blur. The labelled stream's
colour distortion (INPUT.COLOR_AUG_SSD) is off on both sides: UniMatch has none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from measure import in_turn, machine, median_ms, quartiles, ratio, run  # noqa: E402

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, stream_entries  # noqa: E402
from rc2l_d2.data.loading.transforms import IMAGE_PADDING, Geometry, sample_geometry, sample_short_edge  # noqa: E402
from rc2l_d2.engine import load_config  # noqa: E402


class PILViews:
    """What both streams do to an image, with PIL; one mapper's settings."""

    def __init__(self, mapper: LabeledMapper | UnlabeledMapper):
        self.mapper = mapper

    def drawn(self, image: Image.Image, rng: np.random.Generator) -> Geometry:
        settings = self.mapper.geometry
        return sample_geometry((image.height, image.width), sample_short_edge(settings, rng), settings, rng)

    def cut(self, image: Image.Image, geometry: Geometry, resample: int) -> Image.Image:
        height, width = geometry.size
        image = image.resize((width, height), resample)
        if geometry.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, top = geometry.left, geometry.top
        return image.crop((left, top, min(left + geometry.crop[1], width), min(top + geometry.crop[0], height)))

    def tensor(self, image: Image.Image, geometry: Geometry, padding: int) -> torch.Tensor:
        right, bottom = geometry.crop[1] - image.width, geometry.crop[0] - image.height
        if right or bottom:
            fill = padding if image.mode == "L" else (padding,) * 3
            image = ImageOps.expand(image, (0, 0, right, bottom), fill)
        array = np.array(image)
        return torch.from_numpy(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))

    def labeled(self, entry: dict, rng: np.random.Generator) -> dict:
        image = Image.open(entry["file_name"]).convert("RGB")
        label = Image.open(entry["sem_seg_file_name"])
        geometry = self.drawn(image, rng)
        label = Image.fromarray(np.array(self.cut(label, geometry, Image.Resampling.NEAREST)), mode="L")
        return {
            "image": self.tensor(self.cut(image, geometry, Image.Resampling.BILINEAR), geometry, IMAGE_PADDING),
            "sem_seg": self.tensor(label, geometry, self.mapper.ignore_value),
        }

    def unlabeled(self, entry: dict, rng: np.random.Generator) -> dict:
        image = Image.open(entry["file_name"]).convert("RGB")
        geometry = self.drawn(image, rng)
        weak = self.cut(image, geometry, Image.Resampling.BILINEAR)
        return {
            "image": self.tensor(weak, geometry, IMAGE_PADDING),
            "strong": self.tensor(self.strong(weak, rng), geometry, IMAGE_PADDING),
            "inside": torch.from_numpy(geometry.inside()),
        }

    def strong(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < 0.8:
            factors = [rng.uniform(1 - strength, 1 + strength) for strength in self.mapper.jitter[:3]]
            turn = rng.uniform(-self.mapper.jitter[3], self.mapper.jitter[3])
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for step in rng.permutation(4):
                image = turn_hue(image, turn) if step == 3 else enhancers[step](image).enhance(factors[step])
        if rng.random() < self.mapper.grayscale:
            image = image.convert("L").convert("RGB")
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
        return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.array(hue) + np.uint8(round(turn * 255) % 256), mode="L")
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def over(entries: Sequence[dict], read: Callable[[dict, np.random.Generator], dict]) -> Callable[[], None]:
    """Reads all ``entries``, each with the generator of its place."""

    def work() -> None:
        for place, entry in enumerate(entries):
            read(entry, np.random.default_rng(place))

    return work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as train_net.py takes them")
    args = parser.parse_args()
    # One core each: a worker process has no more.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    cfg = load_config(args.config_file, [*args.opts, "INPUT.COLOR_AUG_SSD", "False"])
    labeled, unlabeled = LabeledMapper(cfg), UnlabeledMapper(cfg)
    with_labels, without = (
        [entries[place % len(entries)] for place in range(args.images)]
        for entries in (stream_entries(cfg, "TRAIN"), stream_entries(cfg, "UNLABELED"))
    )
    parts = {
        "labelled": over(with_labels, labeled),
        "labelled, PIL": over(with_labels, PILViews(labeled).labeled),
        "unlabelled": over(without, unlabeled),
        "unlabelled, PIL": over(without, PILViews(unlabeled).unlabeled),
    }
    seconds = in_turn(parts, args.rounds, torch.device("cpu"), warmup=1)
    print(f"{args.config_file} {' '.join(args.opts)}: crops of {'x'.join(map(str, cfg.INPUT.CROP.SIZE))}")
    print(f"{machine(torch.device('cpu'))}; {args.rounds} rounds of {args.images} images\n")
    rows = []
    for stream in ("labelled", "unlabelled"):
        rates = [1e3 * args.images / median_ms(seconds, name) for name in (stream, f"{stream}, PIL")]
        rows.append([stream, *rates, quartiles(ratio(seconds, f"{stream}, PIL", stream))])
    print(tabulate(rows, ["stream", "images/s", "PIL, images/s", "times as fast"], floatfmt=".0f"))
    return 0


if __name__ == "__main__":
    run(main)

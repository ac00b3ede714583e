"""Images per second and core of the mappers, compared with a plain PIL implementation.

    python tools/dev/bench/loader.py --config-file configs/camvid/rc2l_R18_1_8.yaml [--images 40] [KEY VALUE ...]

Both read the same files with the same random geometry, crop and views, and return the same tensors. PIL works as in
UniMatch, which has no INPUT.COLOR_AUG_SSD (off here).
"""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from measure import in_turn, median_ms, options, print_table, ratio, run
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, stream_entries
from rc2l_d2.data.loading.transforms import IMAGE_PADDING, Geometry, sample_geometry, sample_short_edge
from rc2l_d2.engine import load_config


class PILViews:
    """The views of both streams, with PIL and the settings of one mapper."""

    def __init__(self, mapper: LabeledMapper | UnlabeledMapper):
        self.mapper = mapper

    def weak(self, entry: dict, rng: np.random.Generator) -> tuple[Image.Image, Geometry]:
        image, settings = Image.open(entry["file_name"]).convert("RGB"), self.mapper.geometry
        geometry = sample_geometry((image.height, image.width), sample_short_edge(settings, rng), settings, rng)
        return cut(image, geometry, Image.Resampling.BILINEAR), geometry

    def labeled(self, entry: dict, rng: np.random.Generator) -> dict:
        image, geometry = self.weak(entry, rng)
        label = cut(Image.open(entry["sem_seg_file_name"]), geometry, Image.Resampling.NEAREST)
        label = to_tensor(Image.fromarray(np.array(label), mode="L"), geometry, self.mapper.ignore_value)
        return {"image": to_tensor(image, geometry, (IMAGE_PADDING,) * 3), "sem_seg": label}

    def unlabeled(self, entry: dict, rng: np.random.Generator) -> dict:
        weak, geometry = self.weak(entry, rng)
        views = (weak, self.strong(weak, rng))
        image, strong = (to_tensor(view, geometry, (IMAGE_PADDING,) * 3) for view in views)
        return {"image": image, "strong": strong[None], "inside": torch.from_numpy(geometry.inside())}

    def strong(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        jitter = self.mapper.jitter
        if rng.random() < 0.8:
            factors = [rng.uniform(1 - strength, 1 + strength) for strength in jitter[:3]]
            shift = rng.uniform(-jitter[3], jitter[3])
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for step in rng.permutation(4):
                image = shift_hue(image, shift) if step == 3 else enhancers[step](image).enhance(factors[step])
        if rng.random() < self.mapper.grayscale:
            image = image.convert("L").convert("RGB")
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
        return image


def cut(image: Image.Image, geometry: Geometry, resample: int) -> Image.Image:
    height, width = geometry.size
    image = image.resize((width, height), resample)
    if geometry.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = geometry.left, geometry.top
    return image.crop((left, top, min(left + geometry.crop[1], width), min(top + geometry.crop[0], height)))


def to_tensor(image: Image.Image, geometry: Geometry, padding: int | tuple[int, ...]) -> torch.Tensor:
    right, bottom = geometry.crop[1] - image.width, geometry.crop[0] - image.height
    if right or bottom:
        image = ImageOps.expand(image, (0, 0, right, bottom), padding)
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def shift_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = Image.fromarray(np.array(hue) + np.uint8(round(shift * 255) % 256), mode="L")
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def main() -> None:
    args = options(__doc__, rounds=5, config=True, images=40).parse_args()
    # One core each, like a worker process.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    cfg = load_config(args.config_file, [*args.opts, "INPUT.COLOR_AUG_SSD", "False"])
    labeled, unlabeled = LabeledMapper(cfg), UnlabeledMapper(cfg)
    with_labels, without = stream_entries(cfg, "TRAIN"), stream_entries(cfg, "UNLABELED")

    def read_all(entries: Sequence[dict], read: Callable[[dict, np.random.Generator], dict]) -> None:
        for index in range(args.images):
            read(entries[index % len(entries)], np.random.default_rng(index))

    parts = {
        "labelled": partial(read_all, with_labels, labeled),
        "labelled, PIL": partial(read_all, with_labels, PILViews(labeled).labeled),
        "unlabelled": partial(read_all, without, unlabeled),
        "unlabelled, PIL": partial(read_all, without, PILViews(unlabeled).unlabeled),
    }
    device = torch.device("cpu")
    seconds = in_turn(parts, args.rounds, device, warmup=1)
    rows = []
    for stream in ("labelled", "unlabelled"):
        rates = [1e3 * args.images / median_ms(seconds, name) for name in (stream, f"{stream}, PIL")]
        rows.append([stream, *rates, ratio(seconds, f"{stream}, PIL", stream)])
    subject = f"{args.images} images, crops of {'x'.join(map(str, cfg.INPUT.CROP.SIZE))}"
    print_table(args, subject, device, rows, ["stream", "images/s", "PIL, images/s", "speed-up"], floatfmt=".0f")


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Segment pictures: the classes drawn over each of them, and on demand the label images.

    python demo/demo.py --config-file output/toy_rc2l/config.yaml --input datasets/toy/JPEGImages --output output/seen \
        --opts MODEL.WEIGHTS output/toy_rc2l/model_final.pth

The teacher in the checkpoint is what speaks, the student with ``--student``. A mistake in what was given is told in one
sentence, with exit status 2.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.data import TestMapper, read_image, require_registered  # noqa: E402
from rc2l_d2.data.definition import voc_color_map  # noqa: E402
from rc2l_d2.engine import RegionCheckpointer, load_config  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402
from rc2l_d2.host import CfgNode, MetadataCatalog, Visualizer, build_model, setup_logger  # noqa: E402

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def find_pictures(inputs: list[str]) -> list[Path]:
    """The files that files, folders (their pictures) and globs name, in order.

    Raises:
        InputError: one of them names nothing, or two would be written to one file.
    """
    found: dict[str, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            paths = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            paths = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(given, recursive=True))]
        if not paths:
            raise InputError(f"--input {given} is neither a picture nor a folder or pattern with pictures in it.")
        for file in paths:
            if found.setdefault(file.stem, file) != file:
                raise InputError(
                    f"{found[file.stem]} and {file} would both be written to {file.stem}.png; run the demo once for "
                    "each of them, with another --output."
                )
    return list(found.values())


def load_model(cfg: CfgNode, student: bool) -> torch.nn.Module:
    """The model of ``cfg`` with the weights of MODEL.WEIGHTS, in eval mode: the teacher's where the file has one.

    Raises:
        InputError: no weights are given, or the file cannot be used.
    """
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; name a checkpoint with --opts MODEL.WEIGHTS FILE.")
    model = build_model(cfg).eval()
    rest = RegionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if "ema" in rest and not student:
        model.load_state_dict(rest["ema"]["model"])
    return model


@torch.no_grad()
def segment(args: argparse.Namespace) -> int:
    """Write the pictures; returns how many."""
    cfg = load_config(args.config_file, args.opts)
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; it names the data set whose classes and colours are drawn.")
    require_registered(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    pictures = find_pictures(args.input)
    model, mapper = load_model(cfg, args.student), TestMapper(cfg)
    output = Path(args.output)
    (output / "labels" if args.labels else output).mkdir(parents=True, exist_ok=True)
    for file in tqdm(pictures, unit="picture"):
        sample = mapper({"file_name": str(file), "image_id": file.stem})
        labels = model([sample])[0]["sem_seg"].argmax(dim=0).cpu().numpy()
        drawn = Visualizer(read_image(file, "RGB"), metadata).draw_sem_seg(labels, alpha=0.6)
        drawn.save(str(output / f"{file.stem}.png"))
        if args.labels:
            picture = Image.fromarray(labels.astype(np.uint8))
            colors = metadata.get("stuff_colors") or voc_color_map(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            picture.putpalette(np.asarray(colors, np.uint8).tobytes())
            picture.save(output / "labels" / f"{file.stem}.png")
    return len(pictures)


def main() -> int:
    """What the command line asks for; 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's configuration")
    parser.add_argument("--input", required=True, nargs="+", help="pictures, folders of pictures, or globs in quotes")
    parser.add_argument("--output", default="output/pictures", metavar="FOLDER", help="where to write (%(default)s)")
    parser.add_argument("--labels", action="store_true", help="also write label images in FOLDER/labels")
    parser.add_argument("--student", action="store_true", help="use the student, not the teacher")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="last: KEY VALUE pairs, as MODEL.WEIGHTS")
    args = parser.parse_args()
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(name=name)
    try:
        count = segment(args)
    except (InputError, OSError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {count} pictures to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

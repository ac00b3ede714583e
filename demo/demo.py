#!/usr/bin/env python3
"""Segment pictures: the classes drawn over each of them, and on demand the label images.

    python demo/demo.py --weights output/toy_rc2l/teacher_final.pth --input datasets/toy/JPEGImages --output output/seen

The file that training writes in the end holds all that is needed. A checkpoint needs its configuration beside it; its
teacher is what speaks, the student with ``--student``:

    python demo/demo.py --config-file output/toy_rc2l/config.yaml --input datasets/toy/JPEGImages \
        --opts MODEL.WEIGHTS output/toy_rc2l/model_0000999.pth

A mistake in what was given is told in one sentence, with exit status 2.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.data import TestMapper, read_image, require_registered  # noqa: E402
from rc2l_d2.data.definition import voc_color_map  # noqa: E402
from rc2l_d2.engine import RegionCheckpointer, load_config, load_model_file  # noqa: E402
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


def load_checkpoint(config_file: str, overrides: list[str], student: bool) -> tuple[torch.nn.Module, CfgNode, Any]:
    """Model in eval mode, configuration and data set's metadata from a checkpoint: the teacher where the file has one.

    Raises:
        InputError: no weights or data set are given, or the file cannot be used.
    """
    cfg = load_config(config_file, overrides)
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; it names the data set whose classes and colours are drawn.")
    require_registered(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; name a checkpoint with --opts MODEL.WEIGHTS FILE.")
    model = build_model(cfg).eval()
    rest = RegionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if "ema" in rest and not student:
        model.load_state_dict(rest["ema"]["model"])
    return model, cfg, MetadataCatalog.get(cfg.DATASETS.TEST[0])


@torch.no_grad()
def segment(args: argparse.Namespace) -> int:
    """Write the pictures; returns how many."""
    pictures = find_pictures(args.input)
    if args.weights:
        model, cfg, metadata = load_model_file(args.weights)
    else:
        model, cfg, metadata = load_checkpoint(args.config_file, args.opts, args.student)
    mapper = TestMapper(cfg)
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="FILE", help="teacher_final.pth of a run")
    source.add_argument("--config-file", metavar="FILE", help="configuration of a checkpoint, named in --opts")
    parser.add_argument("--input", required=True, nargs="+", help="pictures, folders of pictures, or globs in quotes")
    parser.add_argument("--output", default="output/pictures", metavar="FOLDER", help="where to write (%(default)s)")
    parser.add_argument("--labels", action="store_true", help="also write label images in FOLDER/labels")
    parser.add_argument("--student", action="store_true", help="use the student, not the teacher")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="last: KEY VALUE pairs, as MODEL.WEIGHTS")
    args = parser.parse_args()
    if args.weights and (args.opts or args.student):
        parser.error("--opts and --student are for a checkpoint with its --config-file")
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

"""Damage image and label files at random and read each with a training mapper, in a process of its own.

    python tools/dev/fuzz_files.py --config-file configs/camvid/rc2l_R18_1_8.yaml --files 5000

takes images and labels of DATASETS.TRAIN, saved in many formats, labels also as COCO and labelme files. A mapper may
return a sample or raise InputError with the file's name. All else is a finding: the file is kept in --output, and the
exit status is 1.
"""

import argparse
import base64
import collections
import io
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from pycocotools import mask as coco_mask

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, load_dataset, read_label
from rc2l_d2.data.labels.coco import CocoLabels
from rc2l_d2.data.labels.drawn import DrawnLabels, NamedClasses
from rc2l_d2.data.labels.labelme import LabelmeLabels
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

# Pillow's format and mode.
IMAGES = "JPEG RGB,JPEG L,JPEG CMYK,PNG RGB,PNG RGBA,PNG P,PNG I;16,WEBP RGB,TIFF RGB,GIF P,BMP RGB".split(",")
LABELS = "PNG P,PNG L,PNG I;16,TIFF L,GIF L".split(",")
ANNOTATIONS: dict[str, type[DrawnLabels]] = {"coco": CocoLabels, "labelme": LabelmeLabels}
# What a value of a JSON file becomes.
VALUES = [None, True, "", "a" * 5000, "\ud800", -1, 0, 3, 0.5, 1e308, float("nan"), 10**30, [], {}, [[]], [1, 2, 3, 4]]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Replace one to three blocks by others, most of them near the start, where the header is."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(min(rng.choice([64, 1024, len(changed)]), len(changed)) or 1)
        length = rng.choice([0, 1, 1, 1, 4, 4, 64, rng.randint(1, len(data))])
        noise = rng.randbytes(rng.choice([1, 4, 64]))
        changed[start : start + length] = rng.choice([noise, noise, b"", bytes(len(noise)), b"\xff" * len(noise)])
    return bytes(changed)


def annotated(form: str, image: str, label: np.ndarray) -> dict[str, Any]:
    """Return the regions of a label (H, W) as the content of a COCO or labelme file, in every form that these have."""
    height, width = label.shape
    segmentations, shapes = [], []
    for value in np.unique(label[label < 255]).tolist():
        mask = np.asfortranarray(label == value, np.uint8)
        left, top, right, bottom = Image.fromarray(mask).getbbox()
        box, png = [[left, top], [right - 1, bottom - 1]], io.BytesIO()
        Image.fromarray(mask[top:bottom, left:right] * 255).save(png, "PNG")
        flat = mask.ravel("F")
        edges = [0, *np.flatnonzero(np.diff(flat)) + 1, flat.size]
        runs = [0] * int(flat[0]) + np.diff(edges).tolist()
        code = {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
        polygons = [[left, top, right, top, right, bottom], [left, top, right, bottom, left, bottom]]
        for found in (code, code | {"counts": runs}, polygons):
            segmentations.append({"category_id": value + 1, "segmentation": found, "iscrowd": int("counts" in found)})
        corners = [box[0], [right - 1, top], box[1], [left, bottom - 1]]
        points = {"polygon": corners, "oriented_rectangle": corners, "linestrip": corners, "point": box[:1]}
        for kind in (*points, "rectangle", "circle", "line", "mask"):
            drawn = base64.b64encode(png.getvalue()).decode() if kind == "mask" else None
            shape = {"label": f"class{value}", "shape_type": kind, "points": points.get(kind, box), "mask": drawn}
            shapes.append(shape)
    if form == "labelme":
        return {"imagePath": image, "imageHeight": height, "imageWidth": width, "shapes": shapes}
    images = [{"id": 1, "file_name": image, "height": height, "width": width}]
    annotations = [{"id": number, "image_id": 1, **found} for number, found in enumerate(segmentations)]
    categories = [{"id": value + 1, "name": f"class{value}"} for value in range(label[label < 255].max() + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def changed(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Replace, remove or copy one to three values of a JSON document, at any depth."""
    for _ in range(rng.randint(1, 3)):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            deeper = [key for key in keys if isinstance(node[key], (dict, list)) and node[key]]
            if not deeper or rng.random() < 0.1:
                break
            node = node[rng.choice(deeper)]
        key = rng.choice(keys)
        value, chance = node[key], rng.random()
        if type(value) in (int, float) and chance < 0.5:
            node[key] = value * rng.choice([-1, 1, 1, 2]) + rng.randint(-3, 3)
        elif chance < 0.6 and len(node) > 1:
            del node[key]
        else:
            # A copy: the document stays a tree.
            node[key] = json.loads(json.dumps(rng.choice([*VALUES, node[rng.choice(keys)]])))
    return content


def annotation_mapper(mapper: Callable) -> Callable:
    """A mapper of entries whose label file is a COCO or labelme file."""
    classes = NamedClasses.from_yaml("ignore", {}, [f"class{value}" for value in range(254)], 255)

    def read_annotated(entry: dict, rng: np.random.Generator) -> dict:
        file, image = entry["sem_seg_file_name"], Path(entry["file_name"])
        label = ANNOTATIONS[file.split(".")[-2]](classes).of(file, str(image), image.name, image.stem)
        if label is None:
            raise InputError(f"{file} has no label of {image}.")
        return mapper({**entry, "label_map": label}, rng)

    return read_annotated


def written(form: str, entry: dict, key: str, rng: random.Random) -> bytes:
    """Return the bytes of the entry's image or label in a format, undamaged; of a JSON file with changed values."""
    if form in ANNOTATIONS:
        label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
        content = annotated(form, os.path.basename(entry["file_name"]), label)
        return json.dumps(changed(content, rng) if rng.random() < 0.7 else content).encode()
    image, buffer, (name, mode) = Image.open(entry[key]), io.BytesIO(), form.split()
    image = Image.fromarray(np.array(image.convert("L"), np.uint16)) if mode == "I;16" else image.convert(mode)
    image.save(buffer, name, progressive=rng.random() < 0.5)
    return buffer.getvalue()


def read(entry: dict, mapper: Callable, seconds: int, memory: int) -> str:
    """Read a file in a child process; return "read", "refused" or what else happened."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        named = {0: "read", 1: "refused", 4: f"more than {memory} MB of memory", -signal.SIGALRM: f"over {seconds} s"}
        return named.get(code, f"exit status {code}")
    code = 2
    try:
        signal.alarm(seconds)  # ends the child
        limit = psutil.Process().memory_info().vms + memory * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders' messages
        mapper(entry, np.random.default_rng(0))
        code = 0
    except InputError as error:
        code = 1 if entry["damaged"] in str(error) and len(str(error)) < 1000 else 3
    except MemoryError:
        code = 4
    except Exception:
        print(traceback.format_exc(), flush=True)
    os._exit(code)


def main() -> int:
    """Return 0 without findings, 1 with some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="its training data and sizes are used")
    parser.add_argument("--files", type=int, default=5000, help="number of files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="time limit per file (%(default)s)")
    parser.add_argument("--memory", type=int, default=2000, help="memory limit in MB (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"), help="where findings are kept")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    entries = load_dataset(cfg.DATASETS.TRAIN[0], labels="all", key="DATASETS.TRAIN")
    labeled = LabeledMapper(cfg)
    kinds = [("file_name", IMAGES, UnlabeledMapper(cfg)), ("sem_seg_file_name", LABELS, labeled)]
    kinds.append(("sem_seg_file_name", list(ANNOTATIONS), annotation_mapper(labeled)))
    rng, counts = random.Random(args.seed), collections.Counter()
    args.output.mkdir(parents=True, exist_ok=True)
    for number in range(args.files):
        entry, (key, forms, mapper) = dict(rng.choice(entries)), rng.choice(kinds)
        form = rng.choice(forms)
        data = written(form, entry, key, rng)
        suffix = f"{form}.json" if form in ANNOTATIONS else form.split()[0].lower()
        entry[key] = entry["damaged"] = str(args.output / f"{number:06d}.{suffix}")
        # Most damaged bytes make a JSON file invalid at once.
        whole = form in ANNOTATIONS and rng.random() < 0.7
        Path(entry[key]).write_bytes(data if whole else damaged(data, rng))
        found = read(entry, mapper, args.seconds, args.memory)
        counts[found if found in ("read", "refused") else "finding"] += 1
        if found in ("read", "refused"):
            os.remove(entry[key])
        else:
            print(f"{entry[key]}: {found}", flush=True)
    print(f"{args.files} files: {counts['read']} read, {counts['refused']} refused, {counts['finding']} findings")
    return 1 if counts["finding"] else 0


if __name__ == "__main__":
    sys.exit(main())

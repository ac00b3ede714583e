"""Annotations as labelling tools export them, and small images for them."""

import json
from pathlib import Path

import numpy as np
from data_files import write_image, write_label

SIZE = (48, 64)
# On purpose neither 0, 1, 2 nor in the order of the names.
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]


def write_images(folder: Path, names) -> None:
    rng = np.random.default_rng([*folder.name.encode()])  # other images in each folder: no copies
    for name in names:
        write_image(folder / name, rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))


def write_json(file: Path, content) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return str(file)


def coco_content(names, per_image=None) -> dict:
    """A dog's rectangle and over it a cat's triangle in each image, or the segmentations of ``per_image``."""
    height, width = SIZE
    per_image = per_image or [(9, [[5, 5, 40, 5, 40, 40, 5, 40]]), (3, [[20, 10, 60, 10, 60, 40]])]
    images = [
        {"id": 7 * number, "file_name": name, "height": height, "width": width}
        for number, name in enumerate(names, start=1)
    ]
    pairs = [(image, *pair) for image in images for pair in per_image]
    annotations = [
        {"id": number, "image_id": image["id"], "category_id": category, "segmentation": segmentation, "iscrowd": 0}
        for number, (image, category, segmentation) in enumerate(pairs, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": [dict(category) for category in CATEGORIES]}


def labelme_content(name: str, shapes) -> dict:
    height, width = SIZE
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    return {"imagePath": name, "imageHeight": height, "imageWidth": width, "imageData": None, "shapes": listed}


def write_cvat(folder: Path, labels: dict[str, np.ndarray], lines, colors) -> None:
    """CVAT's "Segmentation mask": coloured masks, instances beside them, and the table of the colours."""
    for name, label in labels.items():
        write_label(folder / f"SegmentationClass/{name}.png", np.array(colors, np.uint8)[label])
        write_label(folder / f"SegmentationObject/{name}.png", np.array(colors, np.uint8)[label[::-1]])
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines))

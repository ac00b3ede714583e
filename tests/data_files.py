"""Small real data sets for the tests of ``rc2l_d2.data``: a Pascal-VOC-like folder and its YAML file."""

from itertools import count
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.host import get_cfg

SMALL_SIZE = (40, 48)
_NUMBERS = count()


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_label(path: Path, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def write_dataset(folder: Path, train: int = 10, val: int = 3, size=(24, 32), num_classes: int = 3) -> dict:
    """Write images, labels and lists below ``folder``; returns the content of its YAML file, with a name used once."""
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        ids = [f"{split}_{index:03d}" for index in range(number)]
        for image_id in ids:
            label = rng.integers(0, num_classes, size).astype(np.uint8)
            label[0, 0] = 255
            write_image(folder / "images" / f"{image_id}.png", rng.integers(0, 256, (*size, 3)).astype(np.uint8))
            write_label(folder / "labels" / f"{image_id}.png", label)
        (folder / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return {
        "name": f"small{next(_NUMBERS)}", "root": str(folder), "images": "images", "labels": "labels",
        "image_suffix": ".png", "label_suffix": ".png",
        "classes": [f"class{index}" for index in range(num_classes)], "ignore_value": 255,
        "parts": {
            "train": {"list": "train.txt"}, "val": {"list": "val.txt"},
            "labeled": {"of": "train", "fraction": 0.4, "seed": 1}, "unlabeled": {"of": "train", "except": "labeled"},
        },
    }  # fmt: skip


def write_definition(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def small_config(name: str = "", num_classes: int = 3):
    """A configuration that trains on 16x20 crops of ``name``'s splits, without worker processes."""
    cfg = add_rc2l_config(get_cfg())
    cfg.merge_from_list([
        "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [16, 20],
        "INPUT.MIN_SIZE_TRAIN", (16, 30), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TEST", 0,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 7,
        "SOLVER.IMS_PER_BATCH", 2, "SOLVER.IMS_PER_BATCH_UNLABELED", 4,
        "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", 0,
    ])  # fmt: skip
    if name:
        cfg.DATASETS.TRAIN = (f"{name}_labeled",)
        cfg.DATASETS.UNLABELED = (f"{name}_unlabeled",)
        cfg.DATASETS.TEST = (f"{name}_val",)
    return cfg


class SmallTree:
    """A valid data set of 10 + 3 images below ``folder``, its description, and the configuration that trains on it."""

    def __init__(self, folder: Path):
        self.folder = folder / "data"
        self.yaml = folder / "set.yaml"
        self.content = write_dataset(self.folder, size=SMALL_SIZE)
        self.config = {
            "DATASETS.DEFINITIONS": (str(self.yaml),),
            "DATASETS.TRAIN": self.named("labeled"),
            "DATASETS.UNLABELED": self.named("unlabeled"),
            "DATASETS.TEST": self.named("val"),
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
            "OUTPUT_DIR": str(folder / "out"),
        }

    def named(self, *splits: str) -> tuple[str, ...]:
        return tuple(f"{self.content['name']}_{split}" for split in splits)

    def write(self, file: str, content: str | bytes) -> str:
        (self.folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(self.folder / file)

    def options(self) -> list[str]:
        write_definition(self.yaml, self.content)
        pairs = {key: repr(value) if isinstance(value, tuple) else str(value) for key, value in self.config.items()}
        return [text for pair in pairs.items() for text in pair]

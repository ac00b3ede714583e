"""Look at the data before training does: a wrong label found after an hour has cost an hour."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from ..host import CfgNode, MetadataCatalog
from .catalog import load_dataset
from .mappers import check_label
from .reading import read_label

_EXIF_ORIENTATION = 274
_logger = logging.getLogger(__name__)


def check_test_data(cfg: CfgNode, sample: int = 200) -> list[dict]:
    """The entries of ``cfg.DATASETS.TEST``, of which ``sample`` labels fit their images and the classes.

    Raises:
        InputError: names the file or key and what to do.
    """
    entries = _labelled_entries(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    _check_labels(cfg, entries, sample)
    return entries


def check_training_data(cfg: CfgNode, use_unlabeled: bool = True, sample: int = 200) -> None:
    """Check every data set that ``cfg.DATASETS`` names, as far as that is quick.

    All files must exist; the classes must be MODEL.SEM_SEG_HEAD.NUM_CLASSES; no test image may be a labelled training
    image; and of the labelled and of the test part, ``sample`` label images each (all if there are fewer; drawn with
    the run's seed) must fit their images and the classes.

    Args:
        cfg: the whole configuration.
        use_unlabeled: False leaves DATASETS.UNLABELED alone, as training a supervised model does.
        sample: label images to read of each of the two parts.

    Raises:
        InputError: names the file or key and what to do.
    """
    labeled = _labelled_entries(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    unlabeled_names = cfg.DATASETS.UNLABELED if use_unlabeled else ()
    unlabeled = [entry for name in unlabeled_names for entry in load_dataset(name, False, "DATASETS.UNLABELED")]
    if not labeled:
        raise InputError(
            f"DATASETS.TRAIN = {tuple(cfg.DATASETS.TRAIN)} holds no image; name a data set with labelled images."
        )
    if use_unlabeled and not unlabeled:
        raise InputError(
            f"DATASETS.UNLABELED = {tuple(cfg.DATASETS.UNLABELED)} holds no image; name a part that has some, or train "
            f"on labels alone with MODEL.META_ARCHITECTURE RegionSegmentor."
        )
    test = check_test_data(cfg, sample)
    shared = _overlap(labeled, test)
    if shared:
        raise InputError(
            f"DATASETS.TRAIN and DATASETS.TEST share {len(shared)} images, {shared[0]} among them; take them out of "
            f"one of the two, or the result means nothing."
        )
    seen = _overlap(unlabeled, test)
    if seen:
        _logger.warning(
            "DATASETS.UNLABELED and DATASETS.TEST share %d images, %s among them: the result is transductive.",
            len(seen),
            seen[0],
        )
    _check_labels(cfg, labeled, sample)


def _labelled_entries(cfg: CfgNode, names: Sequence[str], key: str) -> list[dict]:
    entries = []
    for name in names:
        entries += load_dataset(name, True, key)
        _check_classes(cfg, name, key)
    return entries


def _check_classes(cfg: CfgNode, name: str, key: str) -> None:
    metadata, head = MetadataCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    where = metadata.get("definition_file", "its registration")
    classes, ignore_value = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if classes is not None and len(classes) != head.NUM_CLASSES:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but '{name}' in {key} has {len(classes)} classes "
            f"({where}); make the two equal."
        )
    if ignore_value is not None and ignore_value != head.IGNORE_VALUE:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but '{name}' in {key} has ignore_value "
            f"{ignore_value} ({where}); make the two equal."
        )


def _overlap(first: Sequence[dict], second: Sequence[dict]) -> list[str]:
    names = {os.path.realpath(entry["file_name"]) for entry in second}
    return sorted(entry["file_name"] for entry in first if os.path.realpath(entry["file_name"]) in names)


def _check_labels(cfg: CfgNode, entries: Sequence[dict], sample: int) -> None:
    if len(entries) > sample:
        drawn = np.random.default_rng(max(cfg.SEED, 0)).choice(len(entries), sample, replace=False)
        entries = [entries[index] for index in sorted(drawn)]
    head = cfg.MODEL.SEM_SEG_HEAD
    check = partial(_check_entry, num_classes=head.NUM_CLASSES, ignore_value=head.IGNORE_VALUE)
    # Decoding releases the interpreter lock. The first bad file of the list is the one reported, every time.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for _ in pool.map(check, entries):
            pass


def _check_entry(entry: dict, num_classes: int, ignore_value: int) -> None:
    label = read_label(entry["sem_seg_file_name"])
    check_label(label, _image_size(entry["file_name"]), entry, num_classes, ignore_value)


def _image_size(path: str) -> tuple[int, int]:
    """The (h, w) of an image after its EXIF rotation, from the header alone."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise InputError(
            f"{path}: the image file cannot be decoded; replace it or take it out of the data set."
        ) from error
    return (width, height) if turned else (height, width)

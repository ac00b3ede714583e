"""Which label file has which class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..loading.mappers import check_label
from ..loading.reading import read_label


def class_presence(entries: Sequence[dict], num_classes: int, ignore_value: int) -> np.ndarray:
    """Return whether each labelled entry has each class, (n, K) bool.

    Raises:
        InputError: a label cannot be read or has an invalid value.
    """
    with ThreadPoolExecutor() as pool:
        labels = pool.map(lambda entry: classes_in_label(entry, num_classes, ignore_value), entries)
        rows = tqdm(labels, total=len(entries), unit="label", disable=None)
        return np.array(list(rows)).reshape(len(entries), num_classes)


def classes_in_label(entry: dict, num_classes: int, ignore_value: int) -> np.ndarray:
    """Return whether the label of one entry or sample has each class, (K,) bool; raises as :func:`class_presence`."""
    label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
    check_label(label, label.shape, entry, num_classes, ignore_value)
    return np.bincount(label.ravel(), minlength=256)[:num_classes] > 0

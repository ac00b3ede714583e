"""What a run reads, in a few values: names of data sets say little, as the same name may stand for other images."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import astuple
from typing import Any

from ..data import stream_entries
from ..host import CfgNode, MetadataCatalog


def data_fingerprint(cfg: CfgNode, stream: str) -> dict[str, Any]:
    """The images, labels and classes of a stream; the same wherever the data lies, in any order.

    Files count by their sizes in bytes: reading all of them would take too long.

    Args:
        cfg: the configuration of a run.
        stream: "TRAIN", "UNLABELED" or "TEST".

    Returns:
        number of "images"; SHA-256 of their ids, the sizes of their files and labels, and the label maps ("files");
        "classes" and "ignore_value" of each data set.

    Raises:
        InputError: see :func:`rc2l_d2.data.stream_entries`.
    """
    files = []
    for entry in stream_entries(cfg, stream):
        label, label_map = entry.get("sem_seg_file_name"), entry.get("label_map")
        known = entry["image_id"], _size(entry["file_name"]), label and _size(label), label_map and astuple(label_map)
        files.append(json.dumps(known))
    metadata = [MetadataCatalog.get(name) for name in cfg.DATASETS[stream]]
    return {
        "images": len(files),
        "files": hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest(),
        "classes": [list(data.get("stuff_classes", ())) for data in metadata],
        "ignore_value": [data.get("ignore_label") for data in metadata],
    }


def _size(file: str) -> int | None:
    try:
        return os.path.getsize(file)
    except OSError:
        return None

"""Labels that seem to belong to another image of their split."""

from __future__ import annotations

from pathlib import PurePath

from ..labels.drawn import DrawnLabel
from .remark import Remark
from .scan import Split

_EXAMPLES = 10


def crossed_labels(split: Split) -> list[Remark]:
    """Return a warning if most labels have the name of another image of the split, as in a list with shifted rows."""
    pairs = [
        (PurePath(entry["file_name"]).stem, entry["sem_seg_file_name"])
        for entry in (split.entries if split.labelled else ())
        if entry.get("sem_seg_file_name") and not isinstance(entry.get("label_map"), DrawnLabel)
    ]
    images = {image for image, _ in pairs}
    stems = [(image, PurePath(label).stem, label) for image, label in pairs]
    crossed = [label for image, stem, label in stems if stem != image and stem in images]
    if 2 * len(crossed) <= len(pairs):
        return []
    what = f"{split.name} has {len(crossed)} labels with the name of another of its images"
    advice = "look at some with rc2l-predict --compare; if the rows of a list are shifted, correct it"
    return [Remark(False, what, tuple(crossed[:_EXAMPLES]), len(crossed), advice)]

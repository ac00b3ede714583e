"""Find the label file of an image: the rules of a data set, also in the plain form that model files keep."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .drawn import DrawnLabels, inside
from .label_map import LabelMap

if TYPE_CHECKING:
    from ..datasets.description import DatasetDefinition


@dataclass(frozen=True)
class LabelRule:
    """The label of an image is ``<folder>/<id, with text replaced><suffix>`` below the data set's root."""

    folder: str  # below the root, "" for the root itself
    suffix: str  # follows the id
    label_map: LabelMap | DrawnLabels | None  # gives the classes; None where the file's values are class indices
    replace: tuple[tuple[str, str], ...] = ()  # pairs (text in the id, its replacement in the label's path)
    images: str = ""  # only images in this folder below the image folder are labelled; ids count from it

    def path(self, image_id: str) -> str:
        """The label's path below the root; "" if the image lies outside of ``images``."""
        below = inside(image_id, self.images)
        if below is None:
            return ""
        image_id = below
        for old, new in self.replace:
            image_id = image_id.replace(old, new)
        return os.path.join(self.folder, image_id + self.suffix)

    def image_id(self, path: str) -> str | None:
        """The inverse of :meth:`path`; None if no image has its label at ``path``."""
        if not self.fits(path):
            return None
        found = path.removeprefix(os.path.join(self.folder, "")).removesuffix(self.suffix)
        for old, new in reversed(self.replace):
            found = found.replace(new, old) if new else found
        found = os.path.join(self.images, found)
        return found if self.path(found) == path else None

    def fits(self, path: str) -> bool:
        """Whether a path below the root has this rule's folder and suffix."""
        return path.startswith(os.path.join(self.folder, "")) and path.endswith(self.suffix)


class AnnotationRule(LabelRule):
    """The labels of all images are in one file or folder, ``folder`` below the data set's root."""

    def path(self, image_id: str) -> str:
        """See :meth:`LabelRule.path`."""
        return self.folder

    def image_id(self, path: str) -> str | None:
        """None: an annotation file is no label image."""
        return None

    def fits(self, path: str) -> bool:
        """See :meth:`LabelRule.fits`."""
        return path == self.folder


@dataclass(frozen=True)
class LabelFiles:
    """The label rules of a data set, independent of its folder."""

    image_suffixes: tuple[str, ...] = ()  # endings of image file names that are not part of the id
    rules: tuple[LabelRule, ...] = (LabelRule("", ".png", None),)  # the first whose file exists is used

    @classmethod
    def of(cls, definition: DatasetDefinition) -> LabelFiles:
        """The rules of ``definition`` for label images, followed by ``<id><label_suffix>`` and ``<id>.png``."""
        rules = [rule for rule in definition.labels if not isinstance(rule.label_map, DrawnLabels)]
        further = [LabelRule("", suffix, definition.label_map) for suffix in {definition.label_suffix: 0, ".png": 0}]
        return cls(definition.image_suffixes, (*rules, *further))

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> LabelFiles:
        """The inverse of :func:`dataclasses.asdict`."""
        maps = [rule["label_map"] and LabelMap(**rule["label_map"]) for rule in plain["rules"]]
        rules = [LabelRule(**{**rule, "label_map": known}) for rule, known in zip(plain["rules"], maps, strict=True)]
        return cls(plain["image_suffixes"], tuple(rules))

    def find(self, folder: Path, image: Path) -> tuple[Path, LabelMap | None]:
        """The label of an image among the files of ``folder`` (subfolders are ignored), and the map of its values.

        Raises:
            InputError: there is none; lists the names tried.
        """
        ids = [image.name.removesuffix(suffix) for suffix in self.image_suffixes if image.name.endswith(suffix)]
        names: dict[str, LabelMap | None] = {}
        for rule in self.rules:
            for image_id in (*ids, image.stem):
                names.setdefault(os.path.basename(rule.path(image_id)), rule.label_map)
        for name, label_map in names.items():
            if (folder / name).is_file():
                return folder / name, label_map
        raise InputError(f"{folder} has no label for {image} (looked for {', '.join(names)}); add it.")

"""Labels in a folder of any name: how a data set calls its label files, and what the values in them mean."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..datasets.description import DatasetDefinition, LabelRule
from .label_map import LabelMap


@dataclass(frozen=True)
class LabelFiles:
    """A data set's rules for labels, without the place where it lies.

    Attributes:
        image_suffixes: what may follow an id in the name of an image.
        rules: how the label of an id is called; the first with a file counts.
    """

    image_suffixes: tuple[str, ...] = ()
    rules: tuple[LabelRule, ...] = (LabelRule("", ".png", None),)

    @classmethod
    def of(cls, definition: DatasetDefinition) -> LabelFiles:
        """The rules of ``definition``, and last a label that is called like its image."""
        return cls(definition.image_suffixes, (*definition.labels, LabelRule("", ".png", definition.label_map)))

    def plain(self) -> dict[str, Any]:
        """The same as dicts, tuples, texts and numbers, for a file."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> LabelFiles:
        """What :meth:`plain` gave."""
        maps = [rule["label_map"] and LabelMap(**rule["label_map"]) for rule in plain["rules"]]
        rules = [LabelRule(**{**rule, "label_map": known}) for rule, known in zip(plain["rules"], maps, strict=True)]
        return cls(plain["image_suffixes"], tuple(rules))

    def find(self, folder: Path, image: Path) -> tuple[Path, LabelMap | None]:
        """The label of an image in ``folder``, which has no folders of its own, and what its values mean.

        Raises:
            InputError: it has none; names what was looked for.
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

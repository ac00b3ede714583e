"""A data set described by one YAML file: what the file says, where its folders are, which images a part holds.

The format is explained, with a complete example, in ``datasets/README.md``. Nothing here knows a data set by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import InputError

# Detectron2's variable and its default: the folder that holds all data sets, relative to the current directory.
DATASETS_VARIABLE = "DETECTRON2_DATASETS"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_REQUIRED = ("name", "root", "images", "classes", "parts")
_OPTIONAL = ("labels", "image_suffix", "label_suffix", "palette", "ignore_value")
_PART_FORMS = "{list: FILE}, {folder: FOLDER}, {of: PART, fraction: F, seed: S} or {of: PART, except: PART}"


@dataclass(frozen=True)
class ListPart:
    """The ids in a text file below the root, one a line."""

    file: str


@dataclass(frozen=True)
class FolderPart:
    """Every image in a folder below the image folder, recursively, sorted."""

    folder: str


@dataclass(frozen=True)
class DrawnPart:
    """``max(1, round(n * fraction))`` of the n ids of another part, drawn with a seed, in that part's order."""

    of: str
    fraction: float
    seed: int


@dataclass(frozen=True)
class RemainingPart:
    """The ids of one part that another does not have."""

    of: str
    without: str


Part = ListPart | FolderPart | DrawnPart | RemainingPart


@dataclass(frozen=True)
class DatasetDefinition:
    """What one YAML file says about a data set.

    Attributes:
        file: the YAML file, absolute.
        name: prefix of the registered names ``<name>_<part>``.
        roots: candidates for the data set's folder, as written; the first that exists is used.
        images: folder of the images below the root.
        labels: folders of the label images below the root, the first that holds an image's label counts; empty where
            the data set has none.
        image_suffix, label_suffix: what follows an id in the file names.
        classes: class names; a label image holds indices into them.
        palette: one (r, g, b) a class.
        ignore_value: the label value that means "no class".
        parts: the parts by name, each referring only to parts before it.
    """

    file: Path
    name: str
    roots: tuple[str, ...]
    images: str
    labels: tuple[str, ...]
    image_suffix: str
    label_suffix: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_value: int
    parts: Mapping[str, Part]

    def candidates(self) -> list[tuple[str, Path | None]]:
        """The places where the data set may be: what to show to a user, and the path (None: a variable is unset)."""
        return [_expand(root, self.file.parent) for root in self.roots]

    def root(self) -> Path:
        """The first candidate that is a folder.

        Raises:
            InputError: none is; names all that were looked at.
        """
        candidates = self.candidates()
        for _, path in candidates:
            if path is not None and path.is_dir():
                return path
        looked_at = ", ".join(shown for shown, _ in candidates)
        raise InputError(
            f"{self.file}: the folder of data set '{self.name}' was not found (looked at: {looked_at}); put the data "
            f"there, set {DATASETS_VARIABLE}, or add its place to the key 'root'."
        )

    def ids(self, part: str) -> list[str]:
        """The image ids of a part: paths below the image folder, with "/" and without the suffix.

        Raises:
            InputError: no root, an unreadable list, an id listed twice, or a missing folder.
        """
        source = self.parts[part]
        if isinstance(source, ListPart):
            return _read_list(self.root() / source.file, f"{self.file}: part '{part}'")
        if isinstance(source, FolderPart):
            return self._ids_in_folder(source.folder, part)
        ids = self.ids(source.of)
        if isinstance(source, RemainingPart):
            left_out = set(self.ids(source.without))
            return [image_id for image_id in ids if image_id not in left_out]
        count = min(len(ids), max(1, round(len(ids) * source.fraction)))
        # RandomState, unlike Generator, promises the same stream in every NumPy: a split must stay what it is.
        drawn = np.random.RandomState(source.seed).permutation(len(ids))[:count]
        return [ids[index] for index in np.sort(drawn)]

    def _ids_in_folder(self, folder: str, part: str) -> list[str]:
        images = self.root() / self.images
        if not (images / folder).is_dir():
            raise InputError(
                f"{self.file}: part '{part}' names the folder {images / folder}, which does not exist; correct the "
                f"key 'folder' or complete the data set."
            )
        ids = []
        for parent, _, names in os.walk(images / folder, followlinks=True):
            below = Path(parent).relative_to(images)
            ids += [
                (below / name[: -len(self.image_suffix)]).as_posix()
                for name in names
                if name.endswith(self.image_suffix) and name != self.image_suffix
            ]
        return sorted(ids)

    def entries(self, part: str, labelled: bool = False) -> list[dict[str, str]]:
        """The dataset dicts of a part: "file_name", "image_id" and, where the label file exists, "sem_seg_file_name".

        Args:
            part: a key of ``parts``.
            labelled: every image must have its label.

        Raises:
            InputError: as :meth:`ids`; or files are missing (with their number and the first ten).
        """
        root = self.root()
        if labelled and not self.labels:
            raise InputError(
                f"{self.file}: data set '{self.name}' has no key 'labels', so its part '{part}' can only be used "
                f"without labels (DATASETS.UNLABELED)."
            )
        entries, no_image, no_label = [], [], []
        for image_id in self.ids(part):
            image = os.path.join(root, self.images, image_id + self.image_suffix)
            entry = {"file_name": image, "image_id": image_id}
            if not os.path.isfile(image):
                no_image.append(image)
            labels = [os.path.join(root, folder, image_id + self.label_suffix) for folder in self.labels]
            found = next((label for label in labels if os.path.isfile(label)), None)
            if found is not None:
                entry["sem_seg_file_name"] = found
            elif labelled:
                no_label.append(labels[0])
            entries.append(entry)
        for kind, missing in (("image", no_image), ("label", no_label)):
            if missing:
                raise InputError(_missing(f"{self.file}: part '{part}'", kind, missing, len(entries)))
        return entries


def load_definition(path: str | os.PathLike) -> DatasetDefinition:
    """Read a data set's YAML file (safely: no Python objects).

    Raises:
        InputError: the file cannot be read, a key is unknown or missing, or a value cannot be used; names file and key.
    """
    file = Path(path).absolute()
    raw = _read_yaml(file)
    unknown = sorted(str(key) for key in raw if key not in _REQUIRED + _OPTIONAL)
    if unknown:
        known = ", ".join(_REQUIRED + _OPTIONAL)
        raise InputError(f"{file}: unknown key '{unknown[0]}'; the keys of a data set are {known}.")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise InputError(f"{file}: the key '{missing[0]}' is missing; add it (datasets/README.md has an example).")

    classes = _texts(raw["classes"], file, "classes")
    ignore_value = raw.get("ignore_value", 255)
    _require(_is_int(ignore_value) and 0 <= ignore_value <= 255, file, "ignore_value", "a whole number from 0 to 255")
    _require(len(classes) <= 255 and len(set(classes)) == len(classes), file, "classes", "at most 255 different names")
    _require(ignore_value >= len(classes), file, "ignore_value", f"outside the {len(classes)} class indices")
    return DatasetDefinition(
        file=file,
        name=_text(raw["name"], file, "name"),
        roots=_texts(raw["root"], file, "root"),
        images=_text(raw["images"], file, "images"),
        labels=_texts(raw["labels"], file, "labels") if raw.get("labels") is not None else (),
        image_suffix=_text(raw.get("image_suffix", ".jpg"), file, "image_suffix"),
        label_suffix=_text(raw.get("label_suffix", ".png"), file, "label_suffix"),
        classes=classes,
        palette=_palette(raw.get("palette"), len(classes), file),
        ignore_value=ignore_value,
        parts=_parts(raw["parts"], file),
    )


def voc_color_map(count: int) -> tuple[tuple[int, int, int], ...]:
    """The first ``count`` (r, g, b) of the Pascal VOC colour map: the bits of the index, dealt out to the channels."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colors.append(tuple(channels))
    return tuple(colors)


def _expand(root: str, base: Path) -> tuple[str, Path | None]:
    """Fill ${VARIABLE}; a relative path counts from ``base``, below DETECTRON2_DATASETS from the current directory."""
    values = {DATASETS_VARIABLE: "datasets", **os.environ}
    unset = [name for name in _VARIABLE.findall(root) if name not in values]
    if unset:
        return f"{root} (the environment variable {unset[0]} is not set)", None
    text = os.path.expanduser(_VARIABLE.sub(lambda match: values[match.group(1)], root))
    if root.startswith("${" + DATASETS_VARIABLE + "}"):
        base = Path.cwd()
    path = Path(os.path.normpath(base / text))
    return str(path), path


def _read_list(file: Path, where: str) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(
            f"{where}: the list {file} cannot be read ({reason}); put it there or correct the key 'list'."
        ) from error
    ids = [line.strip() for line in lines if line.strip()]
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise InputError(f"{where}: the list {file} names '{image_id}' twice; remove one of the two lines.")
        seen.add(image_id)
    return ids


def _missing(where: str, kind: str, missing: list[str], total: int) -> str:
    shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    return (
        f"{where}: {len(missing)} of {total} {kind} files are missing: {shown}; complete the data set or correct its "
        f"list, folders and suffixes."
    )


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{file}: the data set's YAML file cannot be read ({error.strerror}); check the path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{file}: this is not valid YAML{line} ({getattr(error, 'problem', None) or type(error).__name__}); "
            f"inside [...] put a value with ${{...}} in quotes."
        ) from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: a data set's YAML file holds keys and values (datasets/README.md has an example).")
    return raw


def _parts(raw: Any, file: Path) -> dict[str, Part]:
    _require(isinstance(raw, dict) and len(raw) > 0, file, "parts", f"at least one name with {_PART_FORMS}")
    parts: dict[str, Part] = {}
    for name, value in raw.items():
        key = f"parts.{name}"
        _require(isinstance(name, str), file, key, "a name in letters (put it in quotes)")
        _require(isinstance(value, dict), file, key, _PART_FORMS)
        keys = set(value)
        for reference in ("of", "except"):
            if reference in keys and value[reference] not in parts:
                raise InputError(
                    f"{file}: the key '{key}.{reference}' names the part '{value[reference]}', which is not defined "
                    f"above it; known there: {', '.join(parts) or 'none'}."
                )
        if keys == {"list"}:
            parts[name] = ListPart(_text(value["list"], file, f"{key}.list"))
        elif keys == {"folder"}:
            parts[name] = FolderPart(_text(value["folder"], file, f"{key}.folder"))
        elif keys == {"of", "except"}:
            parts[name] = RemainingPart(value["of"], value["except"])
        elif {"of", "fraction"} <= keys <= {"of", "fraction", "seed"}:
            fraction, seed = value["fraction"], value.get("seed", 0)
            usable = isinstance(fraction, (int, float)) and not isinstance(fraction, bool) and 0 < fraction <= 1
            _require(usable, file, f"{key}.fraction", "a number above 0 and at most 1")
            _require(_is_int(seed) and 0 <= seed < 2**32, file, f"{key}.seed", "a whole number from 0")
            parts[name] = DrawnPart(value["of"], float(fraction), seed)
        else:
            _require(False, file, key, _PART_FORMS)
    return parts


def _palette(raw: Any, count: int, file: Path) -> tuple[tuple[int, int, int], ...]:
    if raw is None:
        return voc_color_map(count)
    colors = raw if isinstance(raw, list) else []
    usable = len(colors) == count and all(
        isinstance(color, list) and len(color) == 3 and all(_is_int(value) and 0 <= value <= 255 for value in color)
        for color in colors
    )
    _require(usable, file, "palette", f"a list of {count} colours [r, g, b], one a class, with values from 0 to 255")
    return tuple(tuple(color) for color in colors)


def _texts(raw: Any, file: Path, key: str) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else [raw]
    _require(len(values) > 0, file, key, "not empty")
    return tuple(_text(value, file, key) for value in values)


def _text(raw: Any, file: Path, key: str) -> str:
    _require(isinstance(raw, str) and raw != "", file, key, "text (put numbers and words like 'no' in quotes)")
    return raw


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, file: Path, key: str, expected: str) -> None:
    if not condition:
        raise InputError(f"{file}: the key '{key}' cannot be used; it must be {expected}.")

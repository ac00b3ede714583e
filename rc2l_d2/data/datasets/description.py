"""A data set described by one YAML file: what the file says, and where its folder is.

The format is explained, with a complete example, in ``datasets/README.md``. Nothing here knows a data set by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ..labels.label_map import LabelMap

# Detectron2's variable and its default: the folder that holds all data sets, relative to the current directory.
DATASETS_VARIABLE = "DETECTRON2_DATASETS"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_REQUIRED = ("name", "root", "images", "classes", "parts")
_OPTIONAL = ("labels", "image_suffix", "label_suffix", "label_map", "palette", "ignore_value")
_PART_FORMS = (
    "{list: FILE}, {folder: FOLDER}, {pattern: PATTERN}, {of: PART, fraction: F, seed: S} or {of: PART, except: PART}"
)
_LABEL_FORM = "a folder, or {folder: FOLDER} with suffix, map or replace; or a list of these"


@dataclass(frozen=True)
class ListPart:
    """The images that a text file below the root lists, in any format of :mod:`.splits`."""

    file: str


@dataclass(frozen=True)
class FolderPart:
    """Every image in a folder below the image folder, recursively, sorted."""

    folder: str


@dataclass(frozen=True)
class PatternPart:
    """Every image below the image folder that a glob pattern matches (``**``: any folders), sorted."""

    pattern: str


@dataclass(frozen=True)
class DrawnPart:
    """``max(1, round(n * fraction))`` of the n images of another part, drawn with a seed, in that part's order."""

    of: str
    fraction: float
    seed: int


@dataclass(frozen=True)
class RemainingPart:
    """The images of one part that another does not have."""

    of: str
    without: str


Part = ListPart | FolderPart | PatternPart | DrawnPart | RemainingPart


@dataclass(frozen=True)
class LabelRule:
    """Where the label of an image is: ``<folder>/<id, some text in it replaced><suffix>`` below the root.

    Attributes:
        folder: below the root, "" for the root itself.
        suffix: what follows the id.
        label_map: turns the file's values into classes; None where they are the classes.
        replace: pairs of text in the id and what stands for it in the label's path.
    """

    folder: str
    suffix: str
    label_map: LabelMap | None
    replace: tuple[tuple[str, str], ...] = ()

    def path(self, image_id: str) -> str:
        """The label's path below the root."""
        for old, new in self.replace:
            image_id = image_id.replace(old, new)
        return os.path.join(self.folder, image_id + self.suffix)

    def image_id(self, path: str) -> str | None:
        """The id of the image whose label is at a path below the root, None where it is no label's."""
        if not self.fits(path):
            return None
        found = path.removeprefix(os.path.join(self.folder, "")).removesuffix(self.suffix)
        for old, new in reversed(self.replace):
            found = found.replace(new, old) if new else found
        return found if self.path(found) == path else None

    def fits(self, path: str) -> bool:
        """Whether a path below the root looks like one of this rule's."""
        return path.startswith(os.path.join(self.folder, "")) and path.endswith(self.suffix)


@dataclass(frozen=True)
class DatasetDefinition:
    """What one YAML file says about a data set.

    Attributes:
        file: the YAML file, absolute.
        name: prefix of the registered names ``<name>_<part>``.
        roots: candidates for the data set's folder, as written; the first that exists is used.
        images: folder of the images below the root, "" for the root itself.
        labels: where labels may be; the first rule with a file counts. Empty where the data set has none.
        image_suffixes: what may follow an id in the name of an image.
        label_map: of labels that a list names and no rule knows.
        classes: class names; a label image holds indices into them, or what its map turns into them.
        palette: one (r, g, b) a class.
        ignore_value: the label value that means "no class".
        parts: the parts by name, each referring only to parts before it.
    """

    file: Path
    name: str
    roots: tuple[str, ...]
    images: str
    labels: tuple[LabelRule, ...]
    image_suffixes: tuple[str, ...]
    label_map: LabelMap | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_value: int
    parts: Mapping[str, Part]

    def candidates(self) -> list[tuple[str, Path | None]]:
        """Where the data set may be, each place once: what to show a user, and the path (None: a variable is unset)."""
        return [*dict.fromkeys(_expand(root, self.file.parent) for root in self.roots)]

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
    twice = [name for name in classes if classes.count(name) > 1]
    _require(not twice, file, "classes", f"different names ('{twice[0] if twice else ''}' is there twice)")
    _require(len(classes) <= 255, file, "classes", "at most 255 names")
    _require(ignore_value >= len(classes), file, "ignore_value", f"outside the {len(classes)} class indices")
    palette = _palette(raw.get("palette"), len(classes), file)
    read_map = partial(_label_map, file=file, classes=classes, palette=palette, ignore_value=ignore_value)
    label_map = read_map(raw.get("label_map"), key="label_map")
    default = LabelRule("", _suffix(raw.get("label_suffix", ".png"), file, "label_suffix"), label_map)
    return DatasetDefinition(
        file=file,
        name=_text(raw["name"], file, "name"),
        roots=_texts(raw["root"], file, "root"),
        images=_folder(raw["images"], file, "images"),
        labels=_label_rules(raw.get("labels"), default, read_map, file),
        image_suffixes=_texts(raw.get("image_suffix", [".jpg", ".jpeg", ".png"]), file, "image_suffix", _suffix),
        label_map=label_map,
        classes=classes,
        palette=palette,
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


class _KeyTwiceError(ValueError):
    """A mapping has a key, the text, twice; the second is in ``line``."""

    def __init__(self, key: object, line: int):
        super().__init__(key)
        self.line = line


class _UniqueKeysLoader(yaml.SafeLoader):
    """YAML's safe loader, which by itself would take the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise _KeyTwiceError(key.value, key.start_mark.line + 1)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeysLoader)
    except OSError as error:
        raise InputError(
            f"{file}: the data set's YAML file cannot be read ({error.strerror}); check the path."
        ) from error
    except _KeyTwiceError as error:
        raise InputError(f"{file}: line {error.line} has the key '{error}' a second time; remove one.") from error
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
            if reference in keys and not (isinstance(value[reference], str) and value[reference] in parts):
                raise InputError(
                    f"{file}: the key '{key}.{reference}' names the part '{value[reference]}', which is not defined "
                    f"above it; known there: {', '.join(parts) or 'none'}."
                )
        if keys == {"list"}:
            parts[name] = ListPart(_folder(value["list"], file, f"{key}.list"))
        elif keys == {"folder"}:
            parts[name] = FolderPart(_folder(value["folder"], file, f"{key}.folder"))
        elif keys == {"pattern"}:
            parts[name] = PatternPart(_folder(value["pattern"], file, f"{key}.pattern"))
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


def _label_rules(raw: Any, default: LabelRule, read_map: Callable, file: Path) -> tuple[LabelRule, ...]:
    rules = []
    for place, value in enumerate([] if raw is None else raw if isinstance(raw, list) else [raw]):
        key = f"labels[{place}]" if isinstance(raw, list) else "labels"
        value = value if isinstance(value, dict) else {"folder": value}
        known = set(value) <= {"folder", "suffix", "map", "replace"} and "folder" in value
        replace = value.get("replace", {})
        usable = isinstance(replace, dict) and all(isinstance(text, str) for pair in replace.items() for text in pair)
        _require(known and usable, file, key, _LABEL_FORM)
        rules.append(
            LabelRule(
                folder=_folder(value["folder"], file, key),
                suffix=_suffix(value.get("suffix", default.suffix), file, f"{key}.suffix"),
                label_map=read_map(value["map"], key=f"{key}.map") if "map" in value else default.label_map,
                replace=tuple(replace.items()),
            )
        )
    return tuple(rules)


def _label_map(
    raw: Any, key: str, file: Path, classes: tuple[str, ...], palette: tuple[tuple[int, ...], ...], ignore_value: int
) -> LabelMap | None:
    if raw is None:
        return None
    try:
        return LabelMap.from_yaml(raw, classes, palette, ignore_value)
    except ValueError as error:
        raise InputError(f"{file}: the key '{key}' cannot be used; it must be {error}.") from error


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


def _text(raw: Any, file: Path, key: str) -> str:
    _require(isinstance(raw, str) and raw != "", file, key, "text (put numbers and words like 'no' in quotes)")
    return raw


def _texts(raw: Any, file: Path, key: str, read: Callable[[Any, Path, str], str] = _text) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else [raw]
    _require(len(values) > 0, file, key, "one text, or a list with one at least")
    return tuple(read(value, file, key) for value in values)


def _suffix(raw: Any, file: Path, key: str) -> str:
    suffix = _text(raw, file, key)
    _require("." in suffix, file, key, f"what follows an id, with the dot: '.{suffix}' or '_rgb.{suffix}'")
    return suffix


def _folder(raw: Any, file: Path, key: str) -> str:
    """A path (or pattern) below another folder, "" for that folder itself."""
    folder = _text(raw, file, key)
    if os.path.isabs(folder) or ".." in folder.split("/"):
        raise InputError(
            f"{file}: the key '{key}' names {folder}, which leads out of the data set's folder; put a link to it "
            f"there, or describe it in a YAML file of its own, with its own 'root'."
        )
    folder = os.path.normpath(folder)
    return "" if folder == "." else folder


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, file: Path, key: str, expected: str) -> None:
    if not condition:
        raise InputError(f"{file}: the key '{key}' cannot be used; it must be {expected}.")

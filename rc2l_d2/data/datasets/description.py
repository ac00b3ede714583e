"""A data set described by one YAML file: read, validated, and its folder found.

``datasets/README.md`` explains the format with a complete example. Nothing here is specific to one data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ...yaml_files import parse_yaml
from ..labels.class_json import NUMBERS, read_json_rows
from ..labels.class_tables import TABLE_SUFFIXES, read_class_table
from ..labels.coco import CocoLabels
from ..labels.drawn import NamedClasses
from ..labels.label_files import AnnotationRule, LabelRule
from ..labels.label_map import LabelMap, voc_color_map
from ..labels.labelme import LabelmeLabels
from ..labels.mask_files import MaskLabels
from ..loading.bands import BandRule

# Detectron2's variable and its default: the folder that holds all data sets, relative to the current directory.
DATASETS_VARIABLE = "DETECTRON2_DATASETS"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_REQUIRED = ("name", "root", "images", "classes", "parts")
_OPTIONAL = (
    "labels", "image_suffix", "label_suffix", "label_map", "threshold", "palette", "ignore_value", "bands", "range",
)  # fmt: skip
_SPLIT_FORMS = (
    "{list: FILE}, {folder: FOLDER}, {pattern: PATTERN}, {shards: PATTERN}, {of: SPLIT, fraction: F, seed: S, "
    "balanced: true} or {of: SPLIT, except: SPLIT}"
)
_LABEL_FORM = (
    "a folder, or {folder: FOLDER} with suffix, map, threshold or replace; or annotations, {coco: FILE} (match, empty, "
    "segments), {labelme: FOLDER} or {masks: PATTERN} (class), each with outside and perhaps map or images; or a list "
    "of these"
)
# The key that gives the kind of annotations -> its further keys.
_ANNOTATION_KEYS = {
    "coco": {"match", "empty", "segments"},
    "labelme": set(),
    "masks": {"class"},
}


@dataclass(frozen=True)
class DatasetDefinition:
    """Validated description of a data set.

    ``splits`` is the key ``parts``: name -> {"list": file below the root}, {"folder": folder below the image folder},
    {"pattern": glob below the image folder}, {"shards": glob or ranges of tar files below the root}, {"of": split,
    "fraction": 0 to 1, "seed": int} for a random sample, or {"of": split, "except": split}. A split refers only to
    splits before it.
    """

    file: Path  # the YAML file, absolute
    name: str  # prefix of the registered names <name>_<split>
    roots: tuple[str, ...]  # candidates for the data set's folder, as written; the first that exists is used
    images: str  # folder of the images below the root, "" for the root itself
    labels: tuple[LabelRule, ...]  # the first whose file exists is used; empty if the data set has no labels
    image_suffixes: tuple[str, ...]  # endings of image file names that are not part of the id
    label_suffix: str  # follows the id in names of labels that no rule fits
    label_map: LabelMap | None  # for labels that a list names and no rule fits
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # one (r, g, b) per class
    ignore_value: int  # the label value for "no class"
    ignore_stated: bool  # whether the file says so, and the value is not only the default
    splits: Mapping[str, Mapping[str, Any]]
    bands: BandRule | None = None  # how images are read that are not plain 8-bit colour

    def candidates(self) -> list[tuple[str, Path | None]]:
        """Possible folders of the data set without repetition: text for messages, and path (None: variable not set)."""
        return [*dict.fromkeys(_expand(root, self.file.parent) for root in self.roots)]

    def root(self) -> Path:
        """The first candidate that is a folder.

        Raises:
            InputError: none is; lists all candidates.
        """
        candidates = self.candidates()
        found = _first_folder(candidates)
        if found is not None:
            return found
        searched = ", ".join(shown for shown, _ in candidates)
        raise InputError(
            f"{self.file}: the folder of data set '{self.name}' was not found (searched: {searched}); put the data "
            f"there, set {DATASETS_VARIABLE}, or add its place to the key 'root'."
        )


def load_definition(path: str | os.PathLike) -> DatasetDefinition:
    """Read and validate a data set's YAML file, without Python objects.

    Raises:
        InputError: the file cannot be read, a key is unknown or missing, or a value is invalid; names file and key.
    """
    file = Path(path).absolute()
    try:
        return _definition(file, _read_yaml(file))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _definition(file: Path, raw: dict[str, Any]) -> DatasetDefinition:
    unknown = sorted(str(key) for key in raw if key not in _REQUIRED + _OPTIONAL)
    if unknown:
        known = ", ".join(_REQUIRED + _OPTIONAL)
        raise InputError(f"unknown key '{unknown[0]}'; the keys of a data set are {known}.")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise InputError(f"the key '{missing[0]}' is missing; add it (datasets/README.md has an example).")
    classes = _texts(raw["classes"], "classes")
    ignore_value = raw.get("ignore_value", 255)
    _require(_is_whole(ignore_value, 255), "ignore_value", "a whole number from 0 to 255")
    plain = [" ".join(name.split()) for name in classes]
    twice = next((name for name in plain if plain.count(name) > 1), None)
    _require(twice is None, "classes", f"different names ('{twice}' is there twice, perhaps with other blanks)")
    _require(len(classes) <= 255, "classes", "at most 255 names")
    _require(ignore_value >= len(classes), "ignore_value", f"outside the {len(classes)} class indices")
    palette = _palette(raw.get("palette"), len(classes))
    roots = _texts(raw["root"], "root")

    def read_map(values: dict[str, Any], place: str, map_key: str) -> LabelMap | None:
        """The map that the keys ``map_key`` or threshold of ``values``, at ``place`` in the file, describe."""
        given, threshold = values.get(map_key), values.get("threshold")
        if threshold is not None:
            _require(given is None, f"{place}threshold", f"without the key '{map_key}'")
            _require(len(classes) == 2, f"{place}threshold", f"for two classes (there are {len(classes)})")
            is_level = type(threshold) in (int, float) and 0 < threshold <= 65535
            _require(is_level, f"{place}threshold", "a number above 0, as 128")
            return LabelMap.of_threshold(threshold)
        if isinstance(given, str) and given.endswith(TABLE_SUFFIXES):
            root = _first_folder([_expand(root, file.parent) for root in roots])
            if root is None:  # There are no labels either.
                return LabelMap((), (), None, False)
            table = root / _folder(given, f"{place}{map_key}")
            given = read_class_table(table)
            _require(
                table.suffix != ".json" or read_json_rows(str(table))[0] != NUMBERS,
                f"{place}{map_key}", f"a mapping: {table} has numbers of its own, which need not be label values",
            )  # fmt: skip
        try:
            return None if given is None else LabelMap.from_yaml(given, classes, palette, ignore_value)
        except ValueError as error:
            raise InputError(f"the key '{place}{map_key}' cannot be used; it must be {error}.") from error

    def read_names(value: dict, key: str) -> NamedClasses:
        advice = "the class of the pixels in no annotation, or ignore"
        _require("outside" in value, f"{key}.outside", f"given: {advice}")
        try:
            return NamedClasses.from_yaml(value["outside"], value.get("map", {}), classes, ignore_value)
        except ValueError as error:
            raise InputError(f"the keys of '{key}' cannot be used; outside and map must be {error}.") from error

    try:
        bands = BandRule.from_yaml(raw.get("bands"), raw.get("range"))
    except ValueError as error:
        raise InputError(f"the keys 'bands' and 'range' cannot be used; {error}.") from error
    label_map = read_map(raw, "", "label_map")
    label_suffix = _suffix(raw.get("label_suffix", ".png"), "label_suffix")
    default = LabelRule("", label_suffix, label_map)
    return DatasetDefinition(
        file=file,
        name=_text(raw["name"], "name"),
        roots=roots,
        images=_folder(raw["images"], "images"),
        labels=_label_rules(raw.get("labels"), default, read_map, read_names),
        image_suffixes=_texts(raw.get("image_suffix", [".jpg", ".jpeg", ".png"]), "image_suffix", _suffix),
        label_suffix=label_suffix,
        label_map=label_map,
        classes=classes,
        palette=palette,
        ignore_value=ignore_value,
        ignore_stated="ignore_value" in raw,
        splits=_splits(raw["parts"]),
        bands=bands,
    )


def _first_folder(candidates: list[tuple[str, Path | None]]) -> Path | None:
    """The first candidate that is a folder."""
    return next((path for _, path in candidates if path is not None and path.is_dir()), None)


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


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the data set's YAML file cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        advice = getattr(error, "note", None) or "inside [...] put a value with ${...} in quotes"
        raise InputError(f"this is not valid YAML{line} ({problem}); {advice}.") from error
    if not isinstance(raw, dict):
        raise InputError("a data set's YAML file holds keys and values (datasets/README.md has an example).")
    return raw


def _splits(raw: Any) -> dict[str, dict[str, Any]]:
    _require(isinstance(raw, dict) and len(raw) > 0, "parts", f"at least one name with {_SPLIT_FORMS}")
    splits: dict[str, dict[str, Any]] = {}
    for name, value in raw.items():
        key = f"parts.{name}"
        _require(isinstance(name, str), key, "a name in letters (put it in quotes)")
        _require(isinstance(value, dict), key, _SPLIT_FORMS)
        for reference in ("of", "except"):
            if reference in value and value[reference] not in list(splits):
                raise InputError(
                    f"the key '{key}.{reference}' names the split '{value[reference]}', which is not defined "
                    f"above it; known there: {', '.join(splits) or 'none'}."
                )
        if set(value) in ({"list"}, {"folder"}, {"pattern"}, {"shards"}):
            ((kind, path),) = value.items()
            splits[name] = {kind: _folder(path, f"{key}.{kind}")}
        elif {"of", "fraction"} <= set(value) <= {"of", "fraction", "seed", "balanced"}:
            splits[name] = {"seed": 0, "balanced": False, **value}
            fraction, seed = value["fraction"], splits[name]["seed"]
            usable = type(fraction) in (int, float) and 0 < fraction <= 1
            _require(usable, f"{key}.fraction", "a number above 0 and at most 1")
            _require(_is_whole(seed, 2**32 - 1), f"{key}.seed", "a whole number from 0")
            _require(type(splits[name]["balanced"]) is bool, f"{key}.balanced", "true or false")
        else:
            _require(set(value) == {"of", "except"}, key, _SPLIT_FORMS)
            splits[name] = value
    return splits


def _label_rules(
    raw: Any, default: LabelRule, read_map: Callable, read_names: Callable[[dict, str], NamedClasses]
) -> tuple[LabelRule, ...]:
    rules = []
    values = raw if isinstance(raw, list) else [] if raw is None else [raw]
    for place, value in enumerate(values):
        key = f"labels[{place}]" if isinstance(raw, list) else "labels"
        value = value if isinstance(value, dict) else {"folder": value}
        if kinds := [kind for kind in _ANNOTATION_KEYS if kind in value]:
            further = _ANNOTATION_KEYS[kinds[0]] | {kinds[0], "outside", "map", "images"}
            _require(set(value) <= further, key, _LABEL_FORM)
            rules.append(_annotation_rule(value, kinds[0], key, read_names(value, key)))
            continue
        known = set(value) <= {"folder", "suffix", "map", "threshold", "replace"} and "folder" in value
        replace = value.get("replace", {})
        usable = isinstance(replace, dict) and all(isinstance(text, str) for pair in replace.items() for text in pair)
        _require(known and usable, key, _LABEL_FORM)
        rules.append(
            LabelRule(
                folder=_folder(value["folder"], key),
                suffix=_suffix(value.get("suffix", default.suffix), f"{key}.suffix"),
                label_map=read_map(value, f"{key}.", "map") if {"map", "threshold"} & set(value) else default.label_map,
                replace=tuple(replace.items()),
            )
        )
    return tuple(rules)


def _annotation_rule(value: dict[str, Any], kind: str, key: str, names: NamedClasses) -> LabelRule:
    """The rule of labels that are drawn from annotations of a ``kind``, a key of _ANNOTATION_KEYS."""
    path = _folder(value[kind], f"{key}.{kind}")
    images = _folder(value.get("images", "."), f"{key}.images")
    if kind == "labelme":
        return LabelRule(path, ".json", LabelmeLabels(names), images=images)
    if kind == "masks":
        # Files are searched below the folders without a field.
        folder = re.split(r"[{*]", path, maxsplit=1)[0].rpartition("/")[0]
        pattern = path.removeprefix(f"{folder}/" if folder else "")
        name = _text(value["class"], f"{key}.class") if "class" in value else ""
        usable = "{id}" in pattern and ("{class}" in pattern) == (not name)
        _require(usable, f"{key}.masks", "a pattern with {id} and either {class} or the key 'class' beside it")
        return AnnotationRule(folder, "", MaskLabels(names, images, pattern, name))
    match, empty = value.get("match", "path"), value.get("empty", "unlabelled")
    _require(match in ("path", "name"), f"{key}.match", "path or name")
    _require(empty in ("unlabelled", "labelled"), f"{key}.empty", "unlabelled or labelled")
    segments = ""
    if "segments" in value:
        below_root = _folder(value["segments"], f"{key}.segments") or "."
        segments = os.path.relpath(below_root, os.path.dirname(path) or ".")
    return AnnotationRule(path, "", CocoLabels(names, images, match == "name", empty == "labelled", segments))


def _palette(raw: Any, count: int) -> tuple[tuple[int, int, int], ...]:
    if raw is None:
        return voc_color_map(count)
    colors = raw if isinstance(raw, list) else []
    usable = len(colors) == count and all(
        isinstance(color, list) and len(color) == 3 and all(_is_whole(value, 255) for value in color)
        for color in colors
    )
    _require(usable, "palette", f"a list of {count} colours [r, g, b], one per class, with values from 0 to 255")
    return tuple(tuple(color) for color in colors)


def _text(raw: Any, key: str) -> str:
    _require(isinstance(raw, str) and raw != "", key, "text (put numbers and words like 'no' in quotes)")
    return raw


def _texts(raw: Any, key: str, read: Callable[[Any, str], str] = _text) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else [raw]
    _require(len(values) > 0, key, "text or a list of at least one text")
    return tuple(read(value, key) for value in values)


def _suffix(raw: Any, key: str) -> str:
    suffix = _text(raw, key)
    _require("." in suffix, key, f"what follows an id, with the dot: '.{suffix}' or '_rgb.{suffix}'")
    return suffix


def _folder(raw: Any, key: str) -> str:
    """A path (or pattern) below another folder, "" for that folder itself."""
    folder = _text(raw, key)
    if os.path.isabs(folder) or ".." in folder.split("/"):
        raise InputError(
            f"the key '{key}' names {folder}, which leads out of the data set's folder; put a link to it there, or "
            f"describe it in a YAML file of its own, with its own 'root'."
        )
    folder = os.path.normpath(folder)
    return "" if folder == "." else folder


def _is_whole(value: Any, largest: int) -> bool:
    return type(value) is int and 0 <= value <= largest


def _require(condition: bool, key: str, expected: str) -> None:
    if not condition:
        raise InputError(f"the key '{key}' cannot be used; it must be {expected}.")

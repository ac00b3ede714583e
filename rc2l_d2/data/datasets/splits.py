"""Images and labels of a split: from lists, folders, patterns and shards to entries, with a count of missing files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import InputError, first_few
from ..labels.coco import CocoLabels
from ..labels.coco_file import open_coco
from ..labels.drawn import DrawnLabels
from ..loading.bands import BandRule
from .description import DatasetDefinition
from .entries import FileList, image_id
from .image_lists import is_path, read_list
from .image_search import fits, images_below, with_suffix
from .packed import PackedStrings, members, repeated
from .presence import class_presence
from .sampling import sample_balanced, sample_uniform
from .shards import ShardImages, shard_images

# In a split with more images than the first, only so many as the second, equally spaced, are looked for on the disk:
# all of ten million would take minutes.
LOOKUP_LIMIT, LOOKUP_SAMPLE = 1_000_000, 100_000
_LABELS_SAMPLE = 1000  # unlabelled images that are tested for being labels
# Every image must have its label, labels that exist are used, or labels are ignored.
Labels = Literal["all", "existing", "none"]
_logger = logging.getLogger(__name__)
# Which image of a split has which class, with the images.
_PRESENCE: dict[tuple[Path, str], tuple[PackedStrings, np.ndarray]] = {}
# Ranges computed from images: one for a data set in a process, so that all its splits and the model file have the same.
_RESOLVED: dict[tuple[BandRule, Path], BandRule] = {}


@dataclass(frozen=True)
class SplitImages:
    """The images of a split, and the labels if its list names them."""

    images: PackedStrings  # absolute paths
    labels: PackedStrings | None = None  # paths below the root, one for each image
    list_file: str = ""  # names the images, which may not exist; "" for images found on the disk

    def take(self, indices: np.ndarray) -> SplitImages:
        """The images at ``indices``, or where a bool array is True."""
        labels = self.labels.take(indices) if self.labels is not None else None
        return SplitImages(self.images.take(indices), labels, self.list_file)


def split_entries(definition: DatasetDefinition, split: str, labels: Labels) -> FileList:
    """The entries of a split, a key of ``definition.splits``.

    Raises:
        InputError: no root, an unreadable list, no image, an image listed twice, missing files (with their number and
            the first ten), or labels among images without labels.
    """
    return _entries(definition, split_images(definition, split), labels, f"{definition.file}: split '{split}'")


def list_entries(definition: DatasetDefinition, list_file: str, labels: Labels, key: str) -> FileList:
    """As :func:`split_entries`, for the images of ``list_file``, the value of the configuration's ``key``."""
    where = f"{key} with data set '{definition.name}'"
    return _entries(definition, _listed(definition, Path(list_file).absolute(), where), labels, where)


def split_images(definition: DatasetDefinition, split: str) -> SplitImages:
    """The images of a split; files that a list names may be missing.

    A list is read again when it changes. A folder, a pattern or shards are searched once per process, so that training
    uses what was checked before.

    Raises:
        InputError: no root, an unreadable list, an image listed twice, no image, or shards that cannot be used.
    """
    where = f"{definition.file}: split '{split}'"
    match definition.splits[split]:
        case {"list": file}:
            return _listed(definition, definition.root() / file, where)
        case {"of": whole, "except": other}:
            images = split_images(definition, whole)
            rest = images.take(~members(images.images, split_images(definition, other).images))
            if not len(rest.images):
                raise InputError(
                    f"{where} holds no image, as split '{other}' has every image of split '{whole}'; correct the keys "
                    f"'of' and 'except'."
                )
            return rest
        case {"of": whole, "fraction": fraction, "seed": seed, "balanced": balanced}:
            images = split_images(definition, whole)
            count = len(images.images)
            number = max(1, round(count * fraction))
            if not balanced:
                return images.take(sample_uniform(count, number, seed))
            presence = _presence(definition, whole, images.images)
            try:
                return images.take(sample_balanced(presence, number, seed))
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        case {"shards": pattern}:
            if definition.bands is not None:
                raise InputError(
                    f"{where} has its images in tar shards, which are read without the keys bands and range; describe "
                    f"it in a YAML file without these."
                )
            return SplitImages(shard_images(_root(definition), pattern, definition.image_suffixes, where))
        case source:  # {"folder": ...} or {"pattern": ...}
            ((kind, value),) = source.items()
            return _search(image_folder(definition), definition.image_suffixes, kind, value, where)


def _presence(definition: DatasetDefinition, split: str, images: PackedStrings) -> np.ndarray:
    """Which of the ``images`` of a split has which class, (n, K) bool; labels are read once as long as it has these."""
    key = (definition.file, split)
    known, presence = _PRESENCE.get(key, (None, None))
    if known is None or [*known] != [*images]:
        entries = split_entries(definition, split, "all")
        presence = class_presence(entries, len(definition.classes), definition.ignore_value)
        _PRESENCE[key] = (images, presence)
    return presence


def image_bands(definition: DatasetDefinition) -> BandRule | None:
    """How the images of a data set are read, with percentiles computed from images of its first split, once.

    Raises:
        InputError: an image that percentiles are computed from cannot be read, or there is none.
    """
    rule = definition.bands
    if rule is None or rule.percentiles is None:
        return rule
    key = (rule, definition.file)
    if key not in _RESOLVED:
        _RESOLVED[key] = rule.resolved(split_images(definition, next(iter(definition.splits))).images)
    return _RESOLVED[key]


def image_folder(definition: DatasetDefinition) -> str:
    """The absolute folder of the images, with "/" at its end."""
    return os.path.join(_root(definition), definition.images, "")


def _root(definition: DatasetDefinition) -> str:
    return os.path.join(os.path.realpath(definition.root()), "")


def _listed(definition: DatasetDefinition, file: Path, where: str) -> SplitImages:
    """The images of a list, which is read once as long as the file stays the same."""
    state = os.stat(file) if file.exists() else None
    stamp = state and (state.st_mtime_ns, state.st_size)
    folder = image_folder(definition)
    beside = any(os.path.join(_root(definition), rule.folder, "") == folder for rule in definition.labels)
    return _read_images(_root(definition), folder, definition.image_suffixes, file, where, stamp, beside)


@lru_cache(maxsize=64)
def _read_images(
    root: str,
    folder: str,
    suffixes: tuple[str, ...],
    file: Path,
    where: str,
    stamp: tuple[int, int] | None,
    labels_beside: bool,
) -> SplitImages:
    """The images of a list; ``stamp`` only tells the versions of the file apart.

    ``labels_beside``: whether label images are in the image folder too.
    """
    if file.suffix.lower() == ".json":
        images, labels = PackedStrings.of(open_coco(str(file)).names), None
    else:
        images, labels = read_list(file, where)
    if not len(images):
        raise InputError(f"{where} holds no image: the list {file} is empty; fill it or name another.")
    bare = not is_path(images[0])
    if bare and len(suffixes) > 1:
        found = (with_suffix(folder, name, suffixes, where, labels_beside) for name in images)
        images = PackedStrings.of(found, prefix=folder)
    elif bare:
        images = images.between(folder, suffixes[0])
    else:
        # Paths in lists count from the root; in lists that people write themselves often from the image folder.
        below_root = os.path.isfile(root + images[0]) or not os.path.isfile(folder + images[0])
        images = images.between(root if below_root else folder, "")
    twice = repeated([images])
    if twice:
        number = f"{len(twice)} image{'s' if len(twice) > 1 else ''}"
        raise InputError(
            f"{where}: the list {file} names {number} twice, '{twice[0]}' among them; remove one line of each."
        )
    return SplitImages(images, labels, str(file))


@cache
def _search(folder: str, suffixes: tuple[str, ...], kind: str, value: str, where: str) -> SplitImages:
    """The images in the "folder" ``value`` below ``folder``, or those that match the "pattern" ``value``."""
    if kind == "folder":
        place = f"folder {folder}{value}"
        if not os.path.isdir(folder + value):
            raise InputError(
                f"{where} names the {place}, which does not exist; correct the key 'folder' or complete the data set."
            )
        found = images_below(folder + value, suffixes)
    else:
        place = f"pattern '{value}' below {folder}"
        below = ((path, path.removeprefix(folder).split("/")) for path in images_below(folder, suffixes))
        found = sorted(path for path, parts in below if fits(parts, value.split("/")))
    images = PackedStrings.of((path.removeprefix(folder) for path in found), prefix=folder)
    if not len(images):
        raise InputError(
            f"{where} holds no image: the {place} has none whose name ends with {' or '.join(suffixes)}; correct the "
            f"key '{kind}' or image_suffix."
        )
    return SplitImages(images)


def _entries(definition: DatasetDefinition, split: SplitImages, labels: Labels, where: str) -> FileList:
    if isinstance(split.images, ShardImages):
        if labels == "all":
            raise InputError(f"{where} has its images in tar shards, without labels; use it in DATASETS.UNLABELED.")
        return FileList(split.images, _root(definition), definition.image_suffixes)
    if labels == "all" and not definition.labels and split.labels is None:
        raise InputError(
            f"{where}: data set '{definition.name}' has no key 'labels'; add it, or use the images without labels, in "
            f"DATASETS.UNLABELED."
        )
    if split.list_file:
        split = _located(definition, split, where)
    folder, suffixes, root = image_folder(definition), definition.image_suffixes, _root(definition)
    if labels == "none" or split.labels is None:
        _refuse_labels_among(definition, split.images, where)
    if labels == "none":
        return FileList(split.images, folder, suffixes, bands=image_bands(definition))
    if split.labels is None:
        _require_label_folder(definition, where)
    maps = [definition.label_map, *(rule.label_map for rule in definition.labels)]
    files, map_of_label, missing = [], np.full(len(split.images), -1, np.int16), []
    for index, path in enumerate(split.images):
        label_id = image_id(path, folder, suffixes)
        ruled: dict[str, int] = {}  # Path -> index of its map. Of two rules with one path, the first counts.
        for place, rule in enumerate(definition.labels, start=1):
            ruled.setdefault(rule.path(label_id), place)
        candidates = [*ruled] if split.labels is None else [split.labels[index], *ruled]
        found = ""
        for candidate in candidates:
            source = maps[ruled.get(candidate, 0)]
            name = path.removeprefix(folder)
            if isinstance(source, DrawnLabels):
                found = candidate if source.of(root + candidate, path, name, label_id) else ""
            elif os.path.isfile(root + candidate):
                found = candidate
            if found:
                map_of_label[index] = ruled.get(found) or _fitting_rule(definition, found)
                break
        else:
            drawn = bool(candidates) and isinstance(maps[ruled.get(candidates[0], 0)], DrawnLabels)
            missing += [root + candidate + f" (nothing of {name})" * drawn for candidate in candidates[:1]]
        files.append(found)
    _refuse_equal_names(definition, folder, split.images, where)
    if missing and labels == "all":
        raise _missing(where, "label", missing, split)
    labels_found = PackedStrings.of(files, prefix=root)
    if split.labels is not None:
        others = [index for index, found in enumerate(files) if found and found != split.labels[index]]
        if others:
            _logger.warning(
                "%s: %d labels of the list %s are not there, and %s is read instead of %s, by the key 'labels'.",
                where, len(others), split.list_file, files[others[0]], split.labels[others[0]],
            )  # fmt: skip
    if split.labels is None:
        is_file = (map_of_label >= 0) & ~np.array([isinstance(source, DrawnLabels) for source in maps])[map_of_label]
        _refuse_one_label(split.images.take(is_file), labels_found.take(is_file), where)
    return FileList(split.images, folder, suffixes, labels_found, maps, map_of_label, image_bands(definition))


def _require_label_folder(definition: DatasetDefinition, where: str) -> None:
    """Refuse a description of whose label folders none exists: its images would count as unlabelled."""
    folders = [os.path.join(_root(definition), rule.folder) for rule in definition.labels]
    drawn = any(isinstance(rule.label_map, DrawnLabels) for rule in definition.labels)
    if not folders or any(map(os.path.exists if drawn else os.path.isdir, folders)):
        return
    state = "is a file" if os.path.isfile(folders[0]) else "does not exist"
    raise InputError(
        f"{where}: the key 'labels' names the folder {folders[0]}, which {state}; correct it, complete the data set, "
        f"or leave the key out if there are no labels."
    )


def _refuse_equal_names(definition: DatasetDefinition, folder: str, images: PackedStrings, where: str) -> None:
    """Refuse images of one name in different folders if annotations are found by names without folders."""
    rules = [rule for rule in definition.labels if isinstance(rule.label_map, CocoLabels) and rule.label_map.by_name]
    if not rules:
        return
    counts = Counter(os.path.basename(path) for path in images_below(folder, definition.image_suffixes))
    twice = [path for path in images if counts[os.path.basename(path)] > 1]
    if twice:
        raise InputError(
            f"{where}: {len(twice)} images share their name with others below {folder}, {twice[0]} among them, so that "
            f"'match: name' cannot tell whose annotations {rules[0].folder} has; give the key 'images' of this label "
            f"rule instead."
        )


def _refuse_one_label(images: PackedStrings, labels: PackedStrings, where: str) -> None:
    """Refuse two images with one label if nothing but the format tells them apart, as a photograph and its overlay."""
    shared = set(repeated([labels]))
    known: dict[tuple[str, str], str] = {}
    for path, label in zip(images, labels, strict=True) if shared else ():
        first = known.setdefault((label, os.path.splitext(path)[0]), path) if label in shared else path
        if first != path:
            raise InputError(
                f"{where}: {first} and {path} would both have the label {label}; move the one that it does not belong "
                f"to, or give image_suffix the ending of the others."
            )


def _refuse_labels_among(definition: DatasetDefinition, images: PackedStrings, where: str) -> None:
    """Refuse images, of a sample, that by the description's own rules are the labels of other images."""
    folder, root = image_folder(definition), _root(definition)
    sample = images.take(np.arange(0, len(images), -(-len(images) // _LABELS_SAMPLE)))
    found = []
    for path in sample:
        ids = (rule.image_id(path.removeprefix(root)) for rule in definition.labels)
        others = (folder + name + suffix for name in ids if name is not None for suffix in definition.image_suffixes)
        found += [(path, other) for other in others if other != path and os.path.isfile(other)][:1]
    if found:
        raise InputError(
            f"{where}: {len(found)} of {len(sample)} sampled images are labels, {found[0][0]} among them, the label of "
            f"{found[0][1]}; give image_suffix, or a folder or pattern without labels."
        )


def _fitting_rule(definition: DatasetDefinition, label: str) -> int:
    """The place, from 1, of the rule with the longest folder and suffix that fits a label of a list; 0 if none fits."""
    places = [(len(rule.folder + rule.suffix), -i) for i, rule in enumerate(definition.labels, 1) if rule.fits(label)]
    return -max(places)[1] if places else 0


def _located(definition: DatasetDefinition, split: SplitImages, where: str) -> SplitImages:
    """The split with every image found on the disk, at its own path or, if none is there, by its name."""
    count = len(split.images)
    step = -(-count // LOOKUP_SAMPLE) if count > LOOKUP_LIMIT else 1
    sample = split.images.take(np.s_[::step])
    if step > 1:
        _logger.warning("%s has %d images; only %d of them are looked for on the disk.", where, count, len(sample))
    missing = [path for path in sample if not os.path.isfile(path)]
    # In a list for another layout no image is in its place. If some are, the others are just missing.
    if len(missing) == count:
        return _located_by_name(definition, split, where)
    if missing:
        raise _missing(where, "image", missing, split)
    return split


def _located_by_name(definition: DatasetDefinition, split: SplitImages, where: str) -> SplitImages:
    """The images of a list for another layout, each found by the last component of its id, which must be unique.

    CPS's lists for Cityscapes name ``images/train/jena_000078_000019.png``, a repacked copy of the official data set.
    """
    folder, suffixes = image_folder(definition), definition.image_suffixes
    known: dict[str, str | None] = {}  # None: several images have this name.
    for path in images_below(folder, suffixes):
        name = os.path.basename(image_id(path, folder, suffixes))
        known[name] = None if name in known else path
    names = [os.path.basename(image_id(path, folder, suffixes)) for path in split.images]
    ambiguous = [name for name in names if name in known and known[name] is None]
    if ambiguous:
        raise InputError(
            f"{where}: the images of the list {split.list_file} are not at its paths, and for {len(ambiguous)} of "
            f"{len(names)} there are several of that name in {folder}, '{ambiguous[0]}' among them; correct the paths "
            f"in the list, which count from the root."
        )
    missing = [path for path, name in zip(split.images, names, strict=True) if name not in known]
    if missing:
        raise _missing(where, "image", missing, split)
    _logger.warning(
        "%s: %d images are not at the paths in its list, %s among them; they were found by their names in %s.",
        where, len(names), split.images[0], folder,
    )  # fmt: skip
    return replace(split, images=PackedStrings.of(known[name] for name in names))


def _missing(where: str, kind: str, missing: list[str], split: SplitImages) -> InputError:
    listed = f"the list {split.list_file} (paths in it count from the root), " if split.list_file else ""
    return InputError(
        f"{where}: {len(missing)} of {len(split.images)} {kind} files are missing: {first_few(missing)}; complete the "
        f"data set or correct {listed}the folders or the suffixes."
    )

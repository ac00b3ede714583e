"""Which files a part of a data set holds: lists, folders and patterns to entries, with every missing file counted."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InputError
from .definition import DatasetDefinition, DrawnPart, FolderPart, ListPart, RemainingPart
from .file_list import FileList, image_id
from .packed import PackedStrings, members, repeated
from .splits import draw_uniform, read_list

# Of a part with more images than the first, only so many as the second are looked for on the disk, at equal distances:
# all of ten million would take minutes.
LOOKUP_LIMIT, LOOKUP_SAMPLE = 1_000_000, 100_000
# Every image must have its label; or has it where it exists; or labels are not looked for.
Labels = Literal["all", "existing", "none"]
_LISTS: dict[tuple, tuple] = {}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartImages:
    """The images of a part, and the labels where its list names them.

    Attributes:
        images: absolute paths.
        labels: paths below the root, one for each image, or None.
        listed: whether a list names the images, so that they may not exist.
    """

    images: PackedStrings
    labels: PackedStrings | None = None
    listed: bool = False

    def take(self, indices: np.ndarray) -> PartImages:
        """Those at ``indices``, or where a bool array is True."""
        labels = self.labels.take(indices) if self.labels is not None else None
        return PartImages(self.images.take(indices), labels, self.listed)


def part_entries(definition: DatasetDefinition, part: str, labels: Labels) -> FileList:
    """The entries of a part.

    Args:
        definition: the data set.
        part: a key of ``definition.parts``.
        labels: which of them.

    Raises:
        InputError: no root, an unreadable list, an image listed twice, or missing files (with their number and the
            first ten).
    """
    where = f"{definition.file}: part '{part}'"
    return _entries(definition, part_images(definition, part), labels, where)


def list_entries(definition: DatasetDefinition, list_file: str, labels: Labels, key: str) -> FileList:
    """As :func:`part_entries`, for the images of ``list_file``, which the configuration names in ``key``."""
    where = f"{key} with data set '{definition.name}'"
    return _entries(definition, _listed(definition, Path(list_file).absolute(), where), labels, where)


def part_images(definition: DatasetDefinition, part: str) -> PartImages:
    """What a part holds, as its description says; no file is looked for."""
    source = definition.parts[part]
    where = f"{definition.file}: part '{part}'"
    if isinstance(source, ListPart):
        return _listed(definition, definition.root() / source.file, where)
    if isinstance(source, (DrawnPart, RemainingPart)):
        whole = part_images(definition, source.of)
        if isinstance(source, RemainingPart):
            return whole.take(~members(whole.images, part_images(definition, source.without).images))
        count = max(1, round(len(whole.images) * source.fraction))
        return whole.take(draw_uniform(len(whole.images), count, source.seed))
    folder = image_folder(definition)
    if isinstance(source, FolderPart):
        if not os.path.isdir(folder + source.folder):
            raise InputError(
                f"{where} names the folder {folder + source.folder}, which does not exist; correct the key 'folder' "
                f"or complete the data set."
            )
        found = _walk(folder + source.folder, definition.image_suffixes)
    else:
        paths = sorted(glob.glob(source.pattern, root_dir=folder, recursive=True))
        found = (folder + path for path in paths if _is_image(path, definition.image_suffixes))
    return PartImages(PackedStrings.of((path.removeprefix(folder) for path in found), prefix=folder))


def image_folder(definition: DatasetDefinition) -> str:
    """The absolute folder of the images, with "/" at its end."""
    return os.path.join(os.path.realpath(definition.root()), definition.images, "")


def _listed(definition: DatasetDefinition, file: Path, where: str) -> PartImages:
    """What a list names. A list is read once a process, as long as its file stays the same: training asks twice."""
    try:
        state = os.stat(file)
    except OSError:
        state = None  # read_list says what is wrong with it.
    key = (str(file), image_folder(definition), definition.image_suffixes)
    stamp = state and (state.st_mtime_ns, state.st_size)
    known = _LISTS.get(key)
    if known is None or known[0] != stamp:
        _LISTS[key] = known = stamp, _read_images(definition, file, where)
    return known[1]


def _read_images(definition: DatasetDefinition, file: Path, where: str) -> PartImages:
    split = read_list(file, where)
    root, folder = os.path.join(os.path.realpath(definition.root()), ""), image_folder(definition)
    images, suffixes = split.images, definition.image_suffixes
    if split.bare and len(suffixes) > 1:
        candidates = ((name, [name + suffix for suffix in suffixes]) for name in images)
        names = (next((n for n in paths if os.path.isfile(folder + n)), paths[0]) for _, paths in candidates)
        images = PackedStrings.of(names, prefix=folder)
    elif split.bare:
        images = images.between(folder, suffixes[0])
    else:
        # Paths in lists count from the root; those of people's own lists often from the image folder.
        below_root = not len(images) or os.path.isfile(root + images[0]) or not os.path.isfile(folder + images[0])
        images = images.between(root if below_root else folder, "")
    twice = repeated([images])
    if twice:
        number = f"{len(twice)} image{'s' if len(twice) > 1 else ''}"
        raise InputError(
            f"{where}: the list {file} names {number} twice, '{twice[0]}' among them; remove one line of each."
        )
    return PartImages(images, split.labels, listed=True)


def _is_image(name: str, suffixes: Sequence[str]) -> bool:
    return not os.path.basename(name).startswith(".") and name.lower().endswith(tuple(s.lower() for s in suffixes))


def _walk(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Paths of the images in a folder and those below it, also through links, in the order of their names."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (os.path.join(parent, name) for name in sorted(names) if _is_image(name, suffixes))
        seen.add(real)


def _entries(definition: DatasetDefinition, part: PartImages, labels: Labels, where: str) -> FileList:
    if labels == "all" and not definition.labels and part.labels is None:
        raise InputError(
            f"{where}: data set '{definition.name}' has no key 'labels'; add it, or use the images without labels, in "
            f"DATASETS.UNLABELED."
        )
    if part.listed:
        part = _found(definition, part, where)
    folder, suffixes = image_folder(definition), definition.image_suffixes
    if labels == "none":
        return FileList(part.images, folder, suffixes)
    root = os.path.join(os.path.realpath(definition.root()), "")
    maps = [definition.label_map, *(rule.label_map for rule in definition.labels)]
    files, map_of_label, missing = [], np.full(len(part.images), -1, np.int16), []
    for index, path in enumerate(part.images):
        label_id = image_id(path, folder, suffixes)
        # Path -> place of its map. The same path from two rules: the first counts.
        ruled = {rule.path(label_id): place for place, rule in reversed([*enumerate(definition.labels, start=1)])}
        candidates = [rule.path(label_id) for rule in definition.labels]
        if part.labels is not None:
            candidates.insert(0, part.labels[index])
        found = next((candidate for candidate in candidates if os.path.isfile(root + candidate)), None)
        if found is None:
            missing += [root + candidate for candidate in candidates[:1]]
        else:
            map_of_label[index] = ruled.get(found) or _fitting_rule(definition, found)
        files.append(found or "")
    if missing and labels == "all":
        raise InputError(_missing(where, "label", missing, len(part.images)))
    return FileList(part.images, folder, suffixes, PackedStrings.of(files, prefix=root), maps, map_of_label)


def _fitting_rule(definition: DatasetDefinition, label: str) -> int:
    """The place, from 1, of the rule whose folder and suffix say most about a label that a list names; 0: of none."""
    fitting = [place for place, rule in enumerate(definition.labels, start=1) if rule.fits(label)]
    said = {place: len(definition.labels[place - 1].folder + definition.labels[place - 1].suffix) for place in fitting}
    return max(fitting, key=said.get, default=0)


def _found(definition: DatasetDefinition, part: PartImages, where: str) -> PartImages:
    """The part with every image found on the disk, under its own path or, if the list is of another layout, by name.

    CPS's lists for Cityscapes name ``images/train/jena_000078_000019.png``, a repacked copy. Its last part is also that
    of the id of an image in the official layout, and no other image has it.
    """
    count = len(part.images)
    step = -(-count // LOOKUP_SAMPLE) if count > LOOKUP_LIMIT else 1
    looked_at = np.arange(0, count, step)
    if step > 1:
        _logger.warning("%s has %d images; only %d of them are looked for on the disk.", where, count, len(looked_at))
    paths = zip(looked_at.tolist(), part.images.take(looked_at), strict=True)
    missing = [index for index, path in paths if not os.path.isfile(path)]
    if not missing:
        return part
    # A list of another layout has every image elsewhere. Where one is in its place, the others are just not there.
    lost, by_name, names = missing, {}, []
    folder, suffixes = image_folder(definition), definition.image_suffixes
    if len(missing) == count:
        by_name = _by_name(folder, suffixes)
        names = [os.path.basename(image_id(path, folder, suffixes)) for path in part.images]
        lost = [index for index, name in enumerate(names) if by_name.get(name) is None]
    if lost:
        raise InputError(_missing(where, "image", [part.images[index] for index in lost], count))
    _logger.warning(
        "%s: %d images are not where its list says, %s among them; they were found by their names in %s.",
        where, len(missing), part.images[missing[0]], folder,
    )  # fmt: skip
    return PartImages(PackedStrings.of(by_name[name] for name in names), part.labels)


def _by_name(folder: str, suffixes: Sequence[str]) -> dict[str, str | None]:
    """The path of each image by the last part of its id; None where several have one name."""
    paths: dict[str, str | None] = {}
    for path in _walk(folder, suffixes):
        name = os.path.basename(image_id(path, folder, suffixes))
        paths[name] = None if name in paths else path
    return paths


def _missing(where: str, kind: str, missing: list[str], total: int) -> str:
    shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    return (
        f"{where}: {len(missing)} of {total} {kind} files are missing: {shown}; complete the data set or correct its "
        f"list, folders and suffixes."
    )

"""Which files a part of a data set holds: lists, folders and patterns to entries, with every missing file counted."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import InputError
from .description import DatasetDefinition, DrawnPart, FolderPart, ListPart, RemainingPart
from .entries import FileList, image_id
from .image_lists import draw_uniform, read_list
from .packed import PackedStrings, members, repeated

# Of a part with more images than the first, only so many as the second are looked for on the disk, at equal distances:
# all of ten million would take minutes.
LOOKUP_LIMIT, LOOKUP_SAMPLE = 1_000_000, 100_000
# So many unlabelled images are asked whether they are labels.
_LABELS_AMONG_IMAGES_SAMPLE = 1000
# Every image must have its label; or has it where it exists; or labels are not looked for.
Labels = Literal["all", "existing", "none"]
_LISTS: dict[tuple, tuple] = {}
_FOLDERS: dict[tuple, PartImages] = {}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartImages:
    """The images of a part, and the labels where its list names them.

    Attributes:
        images: absolute paths.
        labels: paths below the root, one for each image, or None.
        list_file: the list that names the images, so that they may not exist; "" where none does.
    """

    images: PackedStrings
    labels: PackedStrings | None = None
    list_file: str = ""

    def take(self, indices: np.ndarray) -> PartImages:
        """Those at ``indices``, or where a bool array is True."""
        labels = self.labels.take(indices) if self.labels is not None else None
        return PartImages(self.images.take(indices), labels, self.list_file)


def part_entries(definition: DatasetDefinition, part: str, labels: Labels) -> FileList:
    """The entries of a part.

    Args:
        definition: the data set.
        part: a key of ``definition.parts``.
        labels: which of them.

    Raises:
        InputError: no root, an unreadable list, no image, an image listed twice, missing files (with their number and
            the first ten), or labels among images that are wanted without.
    """
    where = f"{definition.file}: part '{part}'"
    return _entries(definition, part_images(definition, part), labels, where)


def list_entries(definition: DatasetDefinition, list_file: str, labels: Labels, key: str) -> FileList:
    """As :func:`part_entries`, for the images of ``list_file``, which is the value of the configuration's ``key``."""
    where = f"{key} with data set '{definition.name}'"
    return _entries(definition, _listed(definition, Path(list_file).absolute(), where), labels, where)


def part_images(definition: DatasetDefinition, part: str) -> PartImages:
    """What a part holds, as its description says; files that a list names are not looked for.

    Lists are read again when they change. A folder or a pattern is looked through once a process, so that what was
    checked before training is what it sees.

    Raises:
        InputError: no root, an unreadable list, an image listed twice, or no image.
    """
    source = definition.parts[part]
    where = f"{definition.file}: part '{part}'"
    if isinstance(source, ListPart):
        return _listed(definition, definition.root() / source.file, where)
    if isinstance(source, (DrawnPart, RemainingPart)):
        whole = part_images(definition, source.of)
        if isinstance(source, RemainingPart):
            rest = whole.take(~members(whole.images, part_images(definition, source.without).images))
            if not len(rest.images):
                raise InputError(
                    f"{where} holds no image, as part '{source.without}' has every one of part '{source.of}'; correct "
                    f"the keys 'of' and 'except'."
                )
            return rest
        count = max(1, round(len(whole.images) * source.fraction))
        return whole.take(draw_uniform(len(whole.images), count, source.seed))
    folder, suffixes = image_folder(definition), definition.image_suffixes
    known = _FOLDERS.get((folder, suffixes, source))
    if known is not None:
        return known
    if isinstance(source, FolderPart):
        place = f"folder {folder}{source.folder}"
        if not os.path.isdir(folder + source.folder):
            raise InputError(
                f"{where} names the {place}, which does not exist; correct the key 'folder' or complete the data set."
            )
        found = images_below(folder + source.folder, suffixes)
    else:
        place = f"pattern '{source.pattern}' below {folder}"
        found = (path for path in sorted(_matching(folder, source.pattern)) if _is_image(path, suffixes))
    images = PackedStrings.of((path.removeprefix(folder) for path in found), prefix=folder)
    if not len(images):
        raise InputError(
            f"{where} holds no image: the {place} has none whose name ends with {' or '.join(suffixes)}; correct the "
            f"key '{'folder' if isinstance(source, FolderPart) else 'pattern'}' or image_suffix."
        )
    _FOLDERS[folder, suffixes, source] = part = PartImages(images)
    return part


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
    if not len(images):
        raise InputError(f"{where} holds no image: the list {file} is empty; fill it or name another.")
    if split.bare and len(suffixes) > 1:
        candidates = ([name + suffix for suffix in suffixes] for name in images)
        names = (next((n for n in paths if os.path.isfile(folder + n)), paths[0]) for paths in candidates)
        images = PackedStrings.of(names, prefix=folder)
    elif split.bare:
        images = images.between(folder, suffixes[0])
    else:
        # Paths in lists count from the root; those of people's own lists often from the image folder.
        below_root = os.path.isfile(root + images[0]) or not os.path.isfile(folder + images[0])
        images = images.between(root if below_root else folder, "")
    twice = repeated([images])
    if twice:
        number = f"{len(twice)} image{'s' if len(twice) > 1 else ''}"
        raise InputError(
            f"{where}: the list {file} names {number} twice, '{twice[0]}' among them; remove one line of each."
        )
    return PartImages(images, split.labels, str(file))


def _is_image(name: str, suffixes: Sequence[str]) -> bool:
    return not os.path.basename(name).startswith(".") and name.lower().endswith(tuple(s.lower() for s in suffixes))


def images_below(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Paths of the images in a folder and those below it, also through links, in the order of their names."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (os.path.join(parent, name) for name in sorted(names) if _is_image(name, suffixes))
        seen.add(real)


def _matching(folder: str, pattern: str) -> Iterator[str]:
    """The files below ``folder`` that a glob pattern matches; below ``**`` each folder is seen once, through links too.

    Python's own glob would follow a link to a folder above it 40 levels deep.
    """
    parts = pattern.split("/")
    plain = parts.index("**") if "**" in parts else len(parts)
    for start in glob.glob("/".join(parts[:plain]), root_dir=folder) if plain else [""]:
        top = os.path.join(folder, start)
        if plain == len(parts):
            yield top
        else:
            above = len(os.path.join(top, ""))
            yield from (path for path in images_below(top, ("",)) if _fits(path[above:].split("/"), parts[plain:]))


def _fits(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _entries(definition: DatasetDefinition, part: PartImages, labels: Labels, where: str) -> FileList:
    if labels == "all" and not definition.labels and part.labels is None:
        raise InputError(
            f"{where}: data set '{definition.name}' has no key 'labels'; add it, or use the images without labels, in "
            f"DATASETS.UNLABELED."
        )
    if part.list_file:
        part = _found(definition, part, where)
    folder, suffixes = image_folder(definition), definition.image_suffixes
    if labels == "none":
        _refuse_labels_among(definition, part.images, where)
        return FileList(part.images, folder, suffixes)
    root = os.path.join(os.path.realpath(definition.root()), "")
    maps = [definition.label_map, *(rule.label_map for rule in definition.labels)]
    files, map_of_label, missing = [], np.full(len(part.images), -1, np.int16), []
    ids: set[str] = set()
    for index, path in enumerate(part.images):
        label_id = image_id(path, folder, suffixes)
        ids.add(label_id)
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
        raise InputError(_missing(where, "label", missing, part))
    if len(ids) < len(part.images) and labels == "all":
        _logger.warning(
            "%s: %d images have the name of another but for the suffix, and share its label; take one of each two out.",
            where, len(part.images) - len(ids),
        )  # fmt: skip
    return FileList(part.images, folder, suffixes, PackedStrings.of(files, prefix=root), maps, map_of_label)


def _refuse_labels_among(definition: DatasetDefinition, images: PackedStrings, where: str) -> None:
    """Refuse images that, by the description's own rules, are the labels of other images; a sample is looked at."""
    folder, root = image_folder(definition), os.path.join(os.path.realpath(definition.root()), "")
    sample = images.take(np.arange(0, len(images), -(-len(images) // _LABELS_AMONG_IMAGES_SAMPLE)))
    found = []
    for path in sample:
        below = path.removeprefix(root)
        owners = (name for rule in definition.labels if (name := rule.image_id(below)) is not None)
        others = (folder + name + suffix for name in owners for suffix in definition.image_suffixes)
        owner = next((other for other in others if other != path and os.path.isfile(other)), None)
        found += [(path, owner)] if owner else []
    if found:
        raise InputError(
            f"{where}: {len(found)} of {len(sample)} images looked at are labels, {found[0][0]} among them, the label "
            f"of {found[0][1]}; give image_suffix, or a folder or pattern without labels."
        )


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
        ambiguous = [index for index in lost if names[index] in by_name]
        if ambiguous:
            raise InputError(
                f"{where}: the images of the list {part.list_file} are not where it says, and for {len(ambiguous)} of "
                f"{count} there are several of that name in {folder}, '{names[ambiguous[0]]}' among them; correct the "
                f"paths in the list, which count from the root."
            )
    if lost:
        raise InputError(_missing(where, "image", [part.images[index] for index in lost], part))
    _logger.warning(
        "%s: %d images are not where its list says, %s among them; they were found by their names in %s.",
        where, len(missing), part.images[missing[0]], folder,
    )  # fmt: skip
    return PartImages(PackedStrings.of(by_name[name] for name in names), part.labels)


def _by_name(folder: str, suffixes: Sequence[str]) -> dict[str, str | None]:
    """The path of each image by the last part of its id; None where several have one name."""
    paths: dict[str, str | None] = {}
    for path in images_below(folder, suffixes):
        name = os.path.basename(image_id(path, folder, suffixes))
        paths[name] = None if name in paths else path
    return paths


def _missing(where: str, kind: str, missing: list[str], part: PartImages) -> str:
    shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    listed = f"the list {part.list_file} (paths in it count from the root), " if part.list_file else ""
    return (
        f"{where}: {len(missing)} of {len(part.images)} {kind} files are missing: {shown}; complete the data set or "
        f"correct {listed}the folders or the suffixes."
    )

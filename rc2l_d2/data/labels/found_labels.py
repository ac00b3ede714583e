"""Recognise the exports of labelling tools in quickstart's LABELS, and find their images and classes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, first_few
from ..datasets.entries import image_id
from ..datasets.image_lists import IMAGE_SUFFIXES
from ..datasets.image_search import images_below
from .coco import CocoLabels
from .coco_file import CocoFile, is_coco, open_coco
from .drawn import DrawnLabel, DrawnLabels, NamedClasses
from .json_file import read_json
from .label_classes import IGNORE_VALUE, FoundClasses
from .label_map import IGNORE, NO_CLASS, voc_color_map
from .labelme import LabelmeLabels, read_labelme, shape_name
from .mask_files import MaskLabels, find_masks
from .pairing import PairedImages, pair_images

_BACKGROUND = "background"
_LOOKED_AT = 20  # files that tell the format of a folder of JSON files
# The annotator is an e-mail address, which may contain "-", or a number.
_BRUSH = re.compile(r"task-\d+-annotation-\d+-by-(?:.*@.*\.[A-Za-z]+|[^-]*)-([^-]+)-.+-\d+\.png")


@dataclass(frozen=True)
class FoundLabels:
    """Annotations that name their classes, with their images."""

    images: PairedImages
    classes: FoundClasses
    drawn: tuple[DrawnLabel, ...]  # one for each of ``images.images``
    rule: dict[str, Any]  # the key ``labels`` of the data set's YAML file, with absolute paths
    notes: tuple[str, ...]

    def rule_below(self, root: str, images: str) -> dict[str, Any]:
        """The rule with paths below the data set's ``root``, and with the folder of its images below ``images``."""
        paths = ("coco", "labelme", "masks")
        written = {key: os.path.relpath(value, root) if key in paths else value for key, value in self.rule.items()}
        written["images"] = os.path.relpath(self.rule["images"], images)
        return {key: value for key, value in written.items() if (key, value) != ("images", ".")}


@dataclass(frozen=True)
class _Source:
    """Annotations before the classes are numbered."""

    images: PairedImages
    names: tuple[str, ...]  # the classes that annotations have, in their order
    unused: tuple[str, ...]
    labels: Callable[[NamedClasses], DrawnLabels]
    rule: dict[str, Any]
    outside: str  # class of the pixels in no annotation, if nobody says it
    notes: tuple[str, ...] = ()


def find_annotations(
    images: str, labels: str, unlabeled: str | None, label_suffix: str = "", outside: str = "", keep_empty: bool = False
) -> FoundLabels | None:
    """The annotations in LABELS: a COCO file, or a folder of labelme's files or of Label Studio's masks.

    Args:
        images, labels, unlabeled, label_suffix: see :func:`pair_images`; ``labels`` may be a COCO file.
        outside: the class of pixels in no annotation, or "ignore"; "" for "background" (panoptic: "ignore").
        keep_empty: whether a listed image without an annotation has a label, all outside; else it is unlabelled.

    Returns:
        None if LABELS holds label images.

    Raises:
        InputError: files cannot be used, or it is not clear what is meant.
    """
    source = _find_source(images, labels, unlabeled, label_suffix, keep_empty)
    return None if source is None else _with_classes(source, labels, outside)


def _find_source(
    images: str, labels: str, unlabeled: str | None, label_suffix: str, keep_empty: bool
) -> _Source | None:
    if os.path.isfile(labels):
        if not labels.lower().endswith(".json"):
            raise InputError(f"LABELS is the file {labels}; name a folder of labels, or a COCO file (.json).")
        return _coco(images, labels, unlabeled, keep_empty)
    if not os.path.isdir(labels) or label_suffix not in ("", ".json"):
        return None
    brushes = [path for path in images_below(labels, (".png",)) if _BRUSH.fullmatch(os.path.basename(path))]
    if brushes and not label_suffix:
        return _brush_masks(images, labels, unlabeled, brushes)
    files = sorted(images_below(labels, (".json",)))
    kinds = [_kind(file) for file in files[:_LOOKED_AT]]
    coco = [file for file, kind in zip(files, kinds, strict=False) if kind == "coco"]
    known = coco or "labelme" in kinds
    if not label_suffix and not (os.path.isdir(images) and os.path.samefile(images, labels)):
        inside = os.path.join(os.path.abspath(images), "")
        masks = [path for path in images_below(os.path.abspath(labels), IMAGE_SUFFIXES) if not path.startswith(inside)]
        if files and not known and not masks:
            raise InputError(f"{labels} holds annotations ({files[0]}) of another format; export them as COCO JSON.")
        if known and masks:
            raise InputError(
                f"{labels} holds annotations ({files[0]}) and images ({masks[0]}), both of which could be labels; name"
                f" the COCO file as LABELS, or give --label-suffix .json for labelme's files and .png for label images."
            )
    if not known:
        return None
    if len(coco) > 1 or (coco and "labelme" in kinds):
        raise InputError(f"{labels} holds several COCO files ({first_few(files, 3)}); name one of them as LABELS.")
    return _coco(images, coco[0], unlabeled, keep_empty) if coco else _labelme(images, labels, unlabeled)


def _kind(file: str) -> str:
    """Whether a JSON file is "coco" or "labelme"; else ""."""
    try:
        content = read_json(file, "file", "correct its path")
    except InputError:
        return ""
    if is_coco(content):
        return "coco"
    return "labelme" if isinstance(content, dict) and isinstance(content.get("shapes"), list) else ""


def _coco(images: str, file: str, unlabeled: str | None, keep_empty: bool) -> _Source:
    opened, folder = open_coco(file), os.path.abspath(images)
    listed = [name for name, count in zip(opened.names, opened.counts, strict=True) if count or keep_empty]
    if not listed:
        raise InputError(f"{file} has no annotation; annotate images, or export the others too.")
    below = {os.path.relpath(path, folder): path for path in images_below(folder, IMAGE_SUFFIXES)}
    absent = [name for name in listed if name not in below]
    # In a file for another layout no image is in its place. If some are, the others are just missing.
    by_name = len(absent) == len(listed) and _by_name(opened, listed, below)
    if absent and not by_name and _by_name(opened, listed, below):
        raise InputError(
            f"{file}: {len(absent)} of {len(listed)} annotated images are in {images} by name alone, and the others at "
            f"their paths ({first_few(absent, 3)}); give all of them one layout."
        )
    if absent and not by_name:
        raise InputError(
            f"{file}: {len(absent)} of {len(listed)} annotated images are not in {images}, neither at their paths nor "
            f"by a name that only one image has: {first_few(absent, 3)}; complete IMAGES, or take them out of the file."
        )
    wanted = set(map(os.path.basename, listed)) if by_name else set(listed)
    found = [name for name in below if (os.path.basename(name) if by_name else name) in wanted]
    paths = {image_id(name, "", IMAGE_SUFFIXES): file for name in found}
    notes = []
    if empty := len(opened.names) - len(listed):
        notes.append(
            f"Images that {file} lists without an annotation, used as unlabelled ones: {empty} (--empty labelled if "
            f"there is nothing in them)."
        )
    if by_name:
        first = next(path for name, path in below.items() if os.path.basename(name) == os.path.basename(absent[0]))
        notes.append(f"Images were found by their names without folders: {absent[0]} is {first}.")
    rule = {"coco": os.path.abspath(file), "images": folder}
    rule |= {"match": "name"} if by_name else {}
    rule |= {"empty": "labelled"} if keep_empty else {}
    return _Source(
        images=pair_images(images, file, unlabeled, label_of=paths),
        names=opened.used,
        unused=tuple(name for name in opened.categories if name not in opened.used),
        labels=lambda classes: CocoLabels(classes, by_name=by_name, keep_empty=keep_empty),
        rule=rule,
        outside=IGNORE if opened.panoptic else _BACKGROUND,
        notes=tuple(notes),
    )


def _by_name(opened: CocoFile, listed: Sequence[str], below: dict[str, str]) -> bool:
    """Whether each listed image is the only one of its name, in the file and in the folder."""
    counts = Counter(map(os.path.basename, below))
    bases = [os.path.basename(name) for name in listed]
    return all(counts[base] == 1 and opened.by_name[base] is not None for base in bases)


def _labelme(images: str, labels: str, unlabeled: str | None) -> _Source:
    paired = pair_images(images, labels, unlabeled, ".json")
    names: dict[str, None] = {}
    empty = 0
    for file in paired.labels:
        shapes = read_labelme(file)["shapes"]
        empty += not shapes
        for number, shape in enumerate(shapes, start=1):
            try:
                names[shape_name(shape)] = None
            except ValueError as error:
                raise InputError(f"{file}: shape {number} {error}; correct it in labelme.") from error
    notes = (f"Files of labelme without a shape, whose pixels are all outside: {empty}.",) if empty else ()
    # Files have no list of all classes: in the order of the alphabet, an added file changes no number but the last.
    ordered = tuple(sorted(name for name in names if name != NO_CLASS))
    rule = {"labelme": os.path.abspath(labels), "images": os.path.abspath(images)}
    return _Source(paired, ordered, (), LabelmeLabels, rule, _BACKGROUND, notes)


def _brush_masks(images: str, labels: str, unlabeled: str | None, brushes: Sequence[str]) -> _Source:
    controls = sorted({_BRUSH.fullmatch(os.path.basename(path))[1] for path in brushes})
    folders = {os.path.dirname(path) for path in brushes}
    if len(controls) > 1 or len(folders) > 1:
        raise InputError(
            f"{labels} holds masks of several folders or of several controls of Label Studio ({', '.join(controls)}); "
            f"give a folder with those of one."
        )
    folder = os.path.abspath(folders.pop())
    pattern = f"task-{{id}}-annotation-{{one}}-{controls[0]}-{{class}}-*.png"
    masks = find_masks(folder, pattern, None)
    try:
        paired = pair_images(images, labels, unlabeled, label_of={task: files[0][1] for task, files in masks.items()})
    except InputError as error:
        if not os.path.isdir(images) or any(
            image_id(path, os.path.join(images, ""), IMAGE_SUFFIXES) in masks
            for path in images_below(images, IMAGE_SUFFIXES)
        ):
            raise
        raise InputError(
            f"No image in {images} has the number of a task of {labels} as its name ({first_few(sorted(masks), 3)}); "
            f"rename the images, or export from Label Studio as COCO, which names them."
        ) from error
    names = tuple(sorted({name for files in masks.values() for name, _ in files}))
    rule = {"masks": os.path.join(folder, pattern), "images": os.path.abspath(images)}
    return _Source(paired, names, (), lambda classes: MaskLabels(classes, pattern=pattern), rule, _BACKGROUND)


def _with_classes(source: _Source, where: str, outside: str) -> FoundLabels:
    similar = [name for name in source.names if name.strip("_ ").lower() in (_BACKGROUND, "bg")]
    if similar and not outside and source.outside == _BACKGROUND:
        raise InputError(
            f"{where} has the class '{similar[0]}', so that it is not clear what the pixels in no annotation are; give "
            f"--outside '{similar[0]}' if they are of this class too, or --outside ignore if they are of no class."
        )
    if IGNORE in source.names:
        raise InputError(
            f"{where} has a class called '{IGNORE}', a word for no class here; rename it ({NO_CLASS} if it is none)."
        )
    outside = outside or source.outside
    files = [source.rule.get("coco", label) for label in source.images.labels]
    if "masks" in source.rule:
        files = [os.path.dirname(source.rule["masks"])] * len(files)
    root = os.path.join(source.rule["images"], "")

    def counted(names: tuple[str, ...], around: str) -> tuple[list[DrawnLabel], np.ndarray]:
        labels = source.labels(NamedClasses.from_yaml(around, {}, names, IGNORE_VALUE))

        def count(file: str, image: str) -> tuple[DrawnLabel, np.ndarray]:
            name = image.removeprefix(root)
            drawn = labels.of(file, image, name, image_id(name, "", IMAGE_SUFFIXES))
            return drawn, np.bincount(drawn.draw(file).ravel(), minlength=IGNORE_VALUE + 1)

        with ThreadPoolExecutor() as pool:
            pairs = list(pool.map(count, files, source.images.images))
        return [drawn for drawn, _ in pairs], np.array([pixels for _, pixels in pairs], np.int64)

    names = source.names if outside in (IGNORE, *source.names) else (outside, *source.names)
    if len(names) > IGNORE_VALUE - 1:
        raise InputError(f"{where} has {len(names)} classes; at most {IGNORE_VALUE - 1} are possible.")
    drawn, pixels = counted(names, outside)
    if names[0] == outside and outside not in source.names and not pixels[:, 0].any():
        names, outside = source.names, IGNORE  # Every pixel is in an annotation.
        drawn, pixels = counted(names, outside)
    if len(names) < 2:
        raise InputError(
            f"The annotations in {where} have one class only ({', '.join(names)}); a model needs two at least."
        )
    about = "no class" if outside == IGNORE else f"the class {outside}"
    note = (
        f"Pixels in no annotation are {about}; --outside changes it. Where annotations overlap, the later one counts."
    )
    ignored = int(pixels[:, IGNORE_VALUE].sum())
    classes = FoundClasses(
        names=names,
        keys=tuple(range(len(names))),
        ignored=(IGNORE_VALUE,) if ignored else (),
        colors=False,
        palette=voc_color_map(len(names)),
        pixels=pixels[:, : len(names)],
        left_out=source.unused,
        ignored_pixels={IGNORE_VALUE: ignored} if ignored else {},
    )
    rule = source.rule | {"outside": outside}
    return FoundLabels(source.images, classes, tuple(drawn), rule, (note, *source.notes))

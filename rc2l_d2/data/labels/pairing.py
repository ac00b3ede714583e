"""Pictures as people have them: a folder of images, a folder of labels with the same names, and more images."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import InputError
from ..datasets.entries import image_id
from ..datasets.image_lists import IMAGE_SUFFIXES
from ..datasets.splits import images_below

# Two files of one length and with the same first bytes are compared as a whole.
_HEAD = 1 << 16


@dataclass(frozen=True)
class OwnPictures:
    """What was found, as absolute paths.

    Attributes:
        images: those with a label.
        labels: one for each of them.
        unlabeled: images without a label, none of them a copy of one that has one.
        without_label: images beside the labelled ones that have no label and are not among ``unlabeled``.
        without_image: labels that belong to no image.
        copies: how many images were left out of ``unlabeled`` as copies of labelled ones.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    unlabeled: tuple[str, ...]
    without_label: tuple[str, ...]
    without_image: tuple[str, ...]
    copies: int


def find_pictures(images: str, labels: str, unlabeled: str | None = None, label_suffix: str = "") -> OwnPictures:
    """Look through the folders and those below them; an image's label has its name, but for the suffix.

    Args:
        images: the folder of the labelled images.
        labels: the folder of their labels; it may lie in that of the images.
        unlabeled: the folder of unlabelled images; None takes the images of ``images`` that have no label. It may be
            the same folder as ``images`` or hold the labelled images or copies of them, which are left out.
        label_suffix: what a label has in place of an image's suffix, as ``_mask.png``; "" for any of the usual ones.

    Raises:
        InputError: a folder is not there, no image has a label, there is no unlabelled image, two files claim one name,
            or a file cannot be read.
    """
    for name, folder in (("IMAGES", images), ("LABELS", labels), ("UNLABELED", unlabeled)):
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f"{name} is {folder}, which is not a folder; correct it.")
    if not label_suffix and os.path.samefile(images, labels):
        raise InputError(
            f"IMAGES and LABELS are one folder, {images}; say what the labels' names end with (--label-suffix "
            f"_mask.png), or put the labels into a folder of their own."
        )
    separate = unlabeled is not None and not os.path.samefile(images, unlabeled)
    images, labels = os.path.abspath(images), os.path.abspath(labels)
    unlabeled = os.path.abspath(unlabeled) if separate else images
    label_suffixes = (label_suffix,) if label_suffix else IMAGE_SUFFIXES
    # Image folders may lie in that of the labels, and the other way round.
    inner = tuple(_inside(folder) for folder in (images, unlabeled) if _inside(folder).startswith(_inside(labels)))
    label_files = [path for path in images_below(labels, label_suffixes) if label_suffix or not path.startswith(inner)]
    label_of = _by_id(label_files, labels, label_suffixes)
    is_label = set(label_files)
    image_files = [path for path in images_below(images, IMAGE_SUFFIXES) if path not in is_label]
    with_label = [path for path in image_files if image_id(path, _inside(images), IMAGE_SUFFIXES) in label_of]
    if not with_label:
        raise InputError(_no_pair(images, labels, image_files, label_files))
    image_of = _by_id(with_label, images, IMAGE_SUFFIXES)
    bare = sorted(set(image_files) - set(with_label))
    more = [path for path in images_below(unlabeled, IMAGE_SUFFIXES) if path not in is_label] if separate else bare
    try:
        kept = _without_copies(more, with_label)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); replace it or take it away.") from error
    if not kept:
        raise InputError(_no_unlabeled(images, unlabeled if separate else None, len(more)))
    return OwnPictures(
        images=tuple(image_of.values()),
        labels=tuple(label_of[name] for name in image_of),
        unlabeled=tuple(kept),
        without_label=tuple(sorted(set(bare) - set(more))),
        without_image=tuple(path for name, path in label_of.items() if name not in image_of),
        copies=len(more) - len(kept),
    )


def _inside(folder: str) -> str:
    """What the path of everything in a folder begins with."""
    return os.path.join(folder, "")


def _by_id(files: Iterable[str], folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files by their path below ``folder`` without suffix."""
    found: dict[str, str] = {}
    for path in files:
        name = image_id(path, _inside(folder), suffixes)
        if name in found:
            raise InputError(
                f"{found[name]} and {path} have one name but for the suffix, so that it is not clear which image and "
                f"label belong together; take one of the two away."
            )
        found[name] = path
    return found


def _without_copies(files: list[str], others: list[str]) -> list[str]:
    """The files with other content than each of ``others``; links and files of another name count by their content."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for path in others:
        by_length[os.path.getsize(path)].append(path)
    heads: dict[str, bytes] = {}

    def is_copy(path: str) -> bool:
        candidates = by_length.get(os.path.getsize(path), ())
        for other in candidates:
            if other not in heads:
                heads[other] = _head(other)
        own = _head(path) if candidates else b""
        return any(own == heads[other] and filecmp.cmp(path, other, shallow=False) for other in candidates)

    return [path for path in files if not is_copy(path)]


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _no_pair(images: str, labels: str, image_files: list[str], label_files: list[str]) -> str:
    for folder, kind, found in ((images, "image", image_files), (labels, "label", label_files)):
        if not found:
            return f"{folder} holds no {kind} ({', '.join(IMAGE_SUFFIXES)}); name another folder."
    wanted = image_id(image_files[0], _inside(images), IMAGE_SUFFIXES)
    return (
        f"No label in {labels} has the name of an image in {images} ({wanted}.png is wanted there, and "
        f"{os.path.relpath(label_files[0], labels)} is there); name them alike, or say what a label has in place of "
        f"an image's suffix (--label-suffix _mask.png)."
    )


def _no_unlabeled(images: str, unlabeled: str | None, copies: int) -> str:
    if unlabeled is None:
        return f"Every image in {images} has a label; name the folder of the unlabelled images as UNLABELED."
    what = f"nothing but the {copies} labelled images" if copies else "no image without a label"
    return f"UNLABELED, {unlabeled}, holds {what}; name a folder with others."

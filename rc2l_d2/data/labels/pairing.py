"""Pair the images and labels of folders by their names, and collect further images as unlabelled."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...errors import InputError
from ..datasets.entries import image_id
from ..datasets.image_lists import IMAGE_SUFFIXES
from ..datasets.image_search import images_below
from .derived import companions, derived_images

# Names of the folders of splits, in lower case.
_TRAINING, _TEST = {"train", "training"}, {"val", "valid", "validation", "test", "testing"}
# Where YAML files are explained.
_YAML = "'Labels in several folders or under other names' in datasets/README.md"


@dataclass(frozen=True)
class PairedImages:
    """Absolute paths of the files in the folders."""

    images: tuple[str, ...]  # with a label
    labels: tuple[str, ...]  # one for each of ``images``
    unlabeled: tuple[str, ...]  # without a label, and no copy of a labelled image
    without_label: tuple[str, ...]  # beside the labelled ones, and neither labelled nor among ``unlabeled``
    without_image: tuple[str, ...]  # labels of no image
    copies: int  # images left out of ``unlabeled`` as copies of labelled ones
    derived: tuple[str, ...]  # those left out as labels, or made from labelled ones: overlays, coloured labels
    companions: tuple[str, ...]  # those of ``unlabeled`` that may be made from labelled ones, as there are no others

    def suffix_keys(self, image_suffix: str) -> dict[str, str]:
        """The keys image_suffix and label_suffix of a data set's YAML file, where all pairs have the same unusual ones.

        ``image_suffix``: as in :func:`pair_images`.
        """
        pairs = zip(map(os.path.basename, self.images), map(os.path.basename, self.labels), strict=True)
        ids = ((image[: -len(image_suffix or os.path.splitext(image)[1])], label) for image, label in pairs)
        endings = {label.removeprefix(own) if label.startswith(own) else "" for own, label in ids}
        label_suffix = endings.pop() if len(endings) == 1 else ""
        keys = {"image_suffix": image_suffix, "label_suffix": label_suffix if label_suffix != ".png" else ""}
        return {key: suffix for key, suffix in keys.items() if "." in suffix}


def pair_images(
    images: str,
    labels: str,
    unlabeled: str | None = None,
    label_suffix: str = "",
    label_of: Mapping[str, str] | None = None,
    image_suffix: str = "",
) -> PairedImages:
    """Search the folders and their subfolders; a label has the name of its image but for the suffixes.

    Args:
        images, labels: the folders of the labelled images and of their labels; one may be inside the other.
        unlabeled: the folder of unlabelled images; None uses the images of ``images`` that have no label. It may be
            ``images`` or contain the labelled images or copies of them, which are left out.
        label_suffix: replaces an image's suffix in its label's name, as ``_mask.png``; "" for any image suffix.
        label_of: the label of each id, a path below ``images`` without suffix; ``labels`` is then not searched.
        image_suffix: the end of the names in ``images`` that is not in a label's, as ``_sat.jpg``; "" for any image's.

    Raises:
        InputError: a missing folder, no pair, no unlabelled image, two files with one name, or an unreadable file.
    """
    _check_folders(images, labels if label_of is None else None, unlabeled, label_suffix)
    separate = unlabeled is not None and not os.path.samefile(images, unlabeled)
    images, labels = os.path.abspath(images), os.path.abspath(labels)
    unlabeled = os.path.abspath(unlabeled) if separate else images
    label_suffixes = (label_suffix,) if label_suffix else IMAGE_SUFFIXES
    image_suffixes = (image_suffix,) if image_suffix else IMAGE_SUFFIXES
    # Image folders may be inside that of the labels, and the other way round.
    inner = tuple(_inside(folder) for folder in (images, unlabeled) if _inside(folder).startswith(_inside(labels)))
    label_files: list[str] = []
    if label_of is None:
        found = images_below(labels, label_suffixes)
        label_files = [path for path in found if label_suffix or not path.startswith(inner)]
        label_of = _by_id(label_files, labels, label_suffixes)
    is_label = set(label_files)
    image_files = [path for path in images_below(images, image_suffixes) if path not in is_label]
    with_label = [path for path in image_files if image_id(path, _inside(images), image_suffixes) in label_of]
    if not with_label:
        raise InputError(_no_pair(images, labels, image_files, label_files, image_suffixes))
    _refuse_several_splits(images, labels, with_label)
    image_of = _by_id(with_label, images, image_suffixes)
    bare = sorted(set(image_files) - set(with_label))
    more = [path for path in images_below(unlabeled, IMAGE_SUFFIXES) if path not in is_label] if separate else bare
    kept, copies, derived, usual = _unlabeled_images(more, unlabeled, with_label, images)
    return PairedImages(
        images=tuple(image_of.values()),
        labels=tuple(label_of[name] for name in image_of),
        unlabeled=tuple(kept),
        without_label=tuple(sorted(set(bare) - set(more))),
        without_image=tuple(path for name, path in label_of.items() if name not in image_of),
        copies=copies,
        derived=tuple(derived),
        companions=tuple(usual),
    )


def _check_folders(images: str, labels: str | None, unlabeled: str | None, label_suffix: str) -> None:
    """Refuse a missing folder, and labels that their names do not tell from images; None is not searched."""
    for name, folder in (("IMAGES", images), ("LABELS", labels), ("UNLABELED", unlabeled)):
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f"{name} is {folder}, which is not a folder; correct it.")
    one_folder = labels is not None and os.path.samefile(images, labels)
    if one_folder and not label_suffix and any(images_below(images, IMAGE_SUFFIXES)):
        raise InputError(
            f"IMAGES and LABELS are one folder, {images}; give the ending of the labels' names (--label-suffix "
            f"_mask.png; --image-suffix _sat.jpg if images have one too), put the labels into a folder of their own, "
            f"or describe both in a YAML file ({_YAML})."
        )


def of_tests(files: Iterable[str], folder: str) -> list[str]:
    """Those of the files below a folder that lie in a subfolder named as a test split."""
    below = ((path, os.path.relpath(path, folder).lower().split(os.sep)[:-1]) for path in files)
    return [path for path, parents in below if not _TEST.isdisjoint(parents)]


def _refuse_several_splits(images: str, labels: str, files: Iterable[str]) -> None:
    """Refuse labelled images in one subfolder for training and in another for tests, which would be mixed."""
    tops = {os.path.relpath(path, images).split(os.sep)[0] for path in files}
    split = [sorted(top for top in tops if top.lower() in names) for names in (_TRAINING, _TEST)]
    if all(split):
        raise InputError(
            f"{images} has labelled images in {split[0][0]} and in {split[1][0]}, which would be mixed; name the "
            f"folder {split[0][0]} in {images} as IMAGES and that in {labels} as LABELS, or describe both splits in a "
            f"YAML file ({_YAML})."
        )


def _unlabeled_images(
    more: list[str], unlabeled: str, with_label: list[str], images: str
) -> tuple[list[str], int, list[str], list[str]]:
    """Choose among the images without a label, ``more``.

    Args:
        more: paths in the folder ``unlabeled``, which may be ``images``.
        with_label: paths in the folder ``images``.

    Returns:
        the images to use, the number of copies of labelled ones, those made from labelled ones, and those among the
        first that may have been.

    Raises:
        InputError: none is left, or a file is unreadable.
    """
    derived = [*derived_images(more, _inside(unlabeled), with_label, _inside(images))]
    own = sorted(set(more) - set(derived))
    try:
        kept = _without_copies(own, with_label)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); replace or remove it.") from error
    copies, usual = len(own) - len(kept), companions(kept, with_label)
    others = sorted(set(kept) - set(usual))
    if others:  # Without others, companions may be the images meant, as of a second camera.
        kept, derived, usual = others, [*derived, *usual], []
    if not kept and derived:
        raise InputError(
            f"UNLABELED, {unlabeled}, holds only labels or images made from labelled ones ({len(derived)}, "
            f"{derived[0]} among them); name a folder with others."
        )
    if not kept and unlabeled == images:
        raise InputError(f"Every image in {images} has a label; name the folder of unlabelled images as UNLABELED.")
    if not kept:
        content = f"nothing but the {len(own)} labelled images" if own else "no image without a label"
        raise InputError(f"UNLABELED, {unlabeled}, holds {content}; name a folder with others.")
    return kept, copies, derived, usual


def _inside(folder: str) -> str:
    """The beginning of every path in a folder."""
    return os.path.join(folder, "")


def _by_id(files: Iterable[str], folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files by their path below ``folder`` without suffix."""
    found: dict[str, str] = {}
    for path in files:
        name = image_id(path, _inside(folder), suffixes)
        if name in found:
            raise InputError(
                f"{found[name]} and {path} have one name but for the suffix, so that it is not clear which image and "
                f"label belong together; remove one of the two."
            )
        found[name] = path
    return found


def _without_copies(files: list[str], others: list[str]) -> list[str]:
    """The files whose content is not that of one of ``others``."""
    others_by_size: dict[int, list[str]] = defaultdict(list)
    for path in others:
        others_by_size[os.path.getsize(path)].append(path)
    # Only files of equal size are read.
    sizes = {path: size for path in files if (size := os.path.getsize(path)) in others_by_size}
    digests = {_digest(path) for size in set(sizes.values()) for path in others_by_size[size]}
    return [path for path in files if path not in sizes or _digest(path) not in digests]


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _no_pair(images: str, labels: str, image_files: list[str], label_files: list[str], ends: tuple[str, ...]) -> str:
    kinds = ((images, "image", image_files, ends), (labels, "label", label_files, IMAGE_SUFFIXES))
    for folder, kind, found, known in kinds:
        if not found:
            option = ", or give the ending of their names (--label-suffix .gif)" * (kind == "label")
            other = _usual_suffix(folder)
            held = f"no {kind} ({', '.join(known)}){f' but {other} files' if other else ''}"
            return f"{folder} holds {held}; name another folder{option}."
    expected = image_id(image_files[0], _inside(images), ends)
    stems = {os.path.basename(image_id(path, _inside(images), ends)): path for path in image_files}
    alike = [path for path in label_files if os.path.splitext(os.path.basename(path))[0] in stems]
    if alike:
        stem = os.path.splitext(os.path.basename(alike[0]))[0]
        several = [path for path in alike if os.path.splitext(os.path.basename(path))[0] == stem]
        found = ", ".join(os.path.relpath(path, labels) for path in several[:2])
        return (
            f"The labels in {labels} ({found}) have the names of images in {images} "
            f"({os.path.relpath(stems[stem], images)}), but lie in other subfolders; name folders with equal "
            f"subfolders, or, if each subfolder has the masks of one class, describe them in a YAML file with labels: "
            f"{{masks: '{{class}}/{{id}}.png'}} ('Annotations of labelling tools' in datasets/README.md)."
        )
    return (
        f"No label in {labels} has the name of an image in {images} (expected {expected}.png, found "
        f"{os.path.relpath(label_files[0], labels)}); give them equal names, or the endings in which they differ "
        f"({_endings(image_files, label_files)}), or describe both in a YAML file ({_YAML})."
    )


def _usual_suffix(folder: str) -> str:
    """The most frequent suffix of the files in a folder; "" without files."""
    counts = Counter(os.path.splitext(path)[1] for path in glob.iglob(f"{glob.escape(folder)}/**/*.*", recursive=True))
    return counts.most_common(1)[0][0] if counts else ""


def _endings(image_files: list[str], label_files: list[str]) -> str:
    """The options that pair the first image and the first label, if other files end alike; else an example."""
    both = image_files, label_files
    first = [os.path.basename(files[0]) for files in both]
    # A label may keep the image's suffix: a.jpg.png.
    start = os.path.commonprefix([os.path.splitext(first[0])[0], first[1]]).rstrip("_-. ")
    ends = [name[len(start) :] for name in first]
    alike = all(sum(path.endswith(end) for path in files) > 1 for end, files in zip(ends, both, strict=True))
    if not (start and alike) or any(end[:1].isalnum() for end in ends):
        return "--label-suffix _mask.png"
    option = "" if ends[0].lower() in IMAGE_SUFFIXES else f"--image-suffix {ends[0]} "
    return f"{option}--label-suffix {ends[1]}"

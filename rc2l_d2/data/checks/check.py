"""Look at the data before training does: a wrong label found after an hour has cost an hour."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...host import CfgNode, MetadataCatalog
from ..datasets.catalog import register_definition, stream_entries, stream_title
from ..datasets.entries import common_files, labels_among, repeated_files
from ..datasets.splits import split_entries
from .scan import KINDS, ScanReport, ScanSettings, scan

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remark:
    """One thing that is wrong; as text, one sentence.

    Attributes:
        fatal: whether it spoils training, or is a warning.
        what: what is wrong with what.
        names: the first ten of the files (or classes) that are meant.
        count: how many there are.
        advice: what to do, "" where nothing has to be done.
    """

    fatal: bool
    what: str
    names: tuple[str, ...] = ()
    count: int = 0
    advice: str = ""

    def __str__(self) -> str:
        shown = ": " + ", ".join(self.names) if self.names else ""
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.what}{shown}{more}{'; ' if self.advice else ''}{self.advice}."


@dataclass(frozen=True)
class Part:
    """Images that are checked together.

    Attributes:
        name: what the user calls them.
        entries: their dataset dicts.
        labelled: whether each needs its label.
        classes: the class names.
        ignore_value: the label value for "no class".
        for_training: whether its labels may be what a model learns from.
        note: what else is to be said of them.
    """

    name: str
    entries: Sequence[dict]
    labelled: bool
    classes: tuple[str, ...]
    ignore_value: int
    for_training: bool = False
    note: Remark | None = None

    def scan(self, limit: int | None = None, **options) -> ScanReport:
        """Read the files, see :func:`rc2l_d2.data.checks.scan.scan`."""
        settings = ScanSettings(self.labelled, len(self.classes), self.ignore_value)
        return scan(self.entries, settings, limit, **options)


def check_test_data(cfg: CfgNode, sample: int = 200) -> Sequence[dict]:
    """The entries of ``cfg.DATASETS.TEST``, of which ``sample`` images and labels can be read and fit.

    Raises:
        InputError: names the files or the key and what to do.
    """
    part = _config_part(cfg, "TEST")
    _check_sample(cfg, part, sample)
    return part.entries


def check_training_data(cfg: CfgNode, use_unlabeled: bool = True, sample: int = 200) -> None:
    """Check every data set that ``cfg.DATASETS`` names, as far as that is quick; warnings are logged.

    All files must exist; the classes must be MODEL.SEM_SEG_HEAD.NUM_CLASSES; no image may be in a stream twice, or in
    two streams (:func:`shared_images`). Of the labelled and of the test part ``sample`` images with their labels each,
    and half as many of the unlabelled images, are read (all if there are fewer; drawn with the run's seed) and must
    fit; the labels of DATASETS.TRAIN among them must show two classes at least.

    Args:
        cfg: the whole configuration.
        use_unlabeled: False leaves DATASETS.UNLABELED alone, as training a supervised model does.
        sample: labelled images to read of each of the two parts.

    Raises:
        InputError: names the files or the key and what to do.
    """
    parts = config_parts(cfg, use_unlabeled)
    for problem in shared_images(cfg, parts):
        raise InputError(str(problem))
    for part in parts.values():
        _check_sample(cfg, part, sample if part.labelled else sample // 2)


def config_parts(cfg: CfgNode, use_unlabeled: bool = True) -> dict[str, Part]:
    """What ``cfg.DATASETS`` names: "TRAIN", with ``use_unlabeled`` "UNLABELED", and "TEST".

    Raises:
        InputError: an unknown data set, missing files, classes that differ from the configuration's, or no image to
            train on.
    """
    streams = ("TRAIN", "UNLABELED", "TEST") if use_unlabeled else ("TRAIN", "TEST")
    parts = {stream: _config_part(cfg, stream) for stream in streams}
    if not len(parts["TRAIN"].entries):
        raise InputError(
            f"DATASETS.TRAIN = {tuple(cfg.DATASETS.TRAIN)} holds no image; name a data set with labelled images."
        )
    if use_unlabeled and not len(parts["UNLABELED"].entries):
        raise InputError(
            f"DATASETS.UNLABELED = {tuple(cfg.DATASETS.UNLABELED)} holds no image; name a part that has some, or train "
            f"on labels alone with MODEL.META_ARCHITECTURE RegionSegmentor."
        )
    return parts


def definition_parts(path: str | os.PathLike, names: Sequence[str] = ()) -> list[Part]:
    """The parts of a data set's YAML file; labelled are those that have a label for every image.

    Args:
        path: the YAML file.
        names: the parts to take; none takes all.

    Raises:
        InputError: the file cannot be used, it has no such part, or images are missing.
    """
    definition = register_definition(path)
    unknown = [name for name in names if name not in definition.splits]
    if unknown:
        raise InputError(f"{path}: there is no part '{unknown[0]}'; the parts are {', '.join(definition.splits)}.")
    parts = []
    for name in names or definition.splits:
        title, note = f"part '{name}'", None
        entries = split_entries(definition, name, "existing")
        with_label = len(entries.label_files)
        labelled = with_label == len(entries)
        if not labelled:
            first = next((entry["file_name"] for entry in entries if "sem_seg_file_name" not in entry), "")
            bare = len(entries) - with_label
            what = f"{title} is checked without labels, as {bare} of {len(entries)} images have none"
            note = Remark(False, what, (first,), bare) if with_label else None
            entries = split_entries(definition, name, "none")
        parts.append(Part(title, entries, labelled, definition.classes, definition.ignore_value, labelled, note))
    return parts


def shared_images(cfg: CfgNode, parts: dict[str, Part]) -> list[Remark]:
    """The ways in which files are used twice.

    An image may be in a training stream once; in no training stream if it is a test image; and, unless
    DATASETS.ALLOW_OVERLAP, not in both of them. (Data sets of DATASETS.TEST are evaluated one by one and may overlap.)
    No label file may be an unlabelled image.
    """
    remarks = []

    def note(what: str, images: Sequence[str], advice: str, kind: str = "image") -> None:
        if images:
            number = f"{len(images)} {kind}{'s' if len(images) > 1 else ''}"
            remarks.append(Remark(True, f"{what} {number}", tuple(images[:10]), len(images), advice))

    for stream in ("TRAIN", "UNLABELED"):
        if stream not in parts:
            continue
        part = parts[stream]
        advice = "name only data sets that have none in common"
        note(f"{part.name} repeats", repeated_files(part.entries), advice)
        advice = "take them out of one of the two, or the result means nothing"
        shared = common_files(part.entries, parts["TEST"].entries)
        note(f"DATASETS.{stream} and DATASETS.TEST share", shared, advice)
    for stream in ("TRAIN", "TEST") if "UNLABELED" in parts else ():
        labels = labels_among(parts[stream].entries, parts["UNLABELED"].entries)
        advice = "give image_suffix, or a folder or pattern without labels, in the data set's YAML file"
        note(f"DATASETS.UNLABELED and the labels of DATASETS.{stream} share", labels, advice, "file")
    if "UNLABELED" in parts and not cfg.DATASETS.ALLOW_OVERLAP:
        advice = (
            "take them out of one of the two, or set DATASETS.ALLOW_OVERLAP to True if labelled images shall be used "
            "as unlabelled ones too"
        )
        shared = common_files(parts["TRAIN"].entries, parts["UNLABELED"].entries)
        note("DATASETS.TRAIN and DATASETS.UNLABELED share", shared, advice)
    return remarks


def remarks_on(part: Part, report: ScanReport) -> list[Remark]:
    """What was found in the files of a part, and as a warning the classes that none of its labels has."""
    remarks = []
    read = "read" if report.complete else f"read, of {report.total} in all"
    for kind in KINDS:
        if kind in report.findings:
            finding = report.findings[kind]
            what = f"{part.name} has {report.title(kind)} ({finding.count} of {report.scanned} {read})"
            remarks.append(Remark(report.is_fatal(kind), what, finding.names(), finding.count, kind.advice))
    absent = [part.classes[index] for index in report.absent] if report.labels else []
    if absent:
        number = f"{len(absent)} of {len(part.classes)} classes ({report.labels} labels {read})"
        advice = f"if they are in the files, {_values_advice(part)}"
        remarks.append(Remark(False, f"{part.name} has no pixel of {number}", tuple(absent), len(absent), advice))
    return remarks


def nothing_to_tell_apart(parts: Sequence[Part], reports: Sequence[ScanReport]) -> list[Remark]:
    """That the labels to train on that were read show but one of several classes, as a mask of 0 and 255 may."""
    pairs = [(part, report) for part, report in zip(parts, reports, strict=True) if part.for_training]
    shown = {index for _, report in pairs for index in np.flatnonzero(report.images_with).tolist()}
    if len(shown) != 1 or len(pairs[0][0].classes) == 1:
        return []  # None at all: every label is ignored or cannot be used, which is told as that.
    part, read = pairs[0][0], sum(report.labels for _, report in pairs)
    what = f"{_named(pairs)} shows no class but '{part.classes[shown.pop()]}' ({read} labels read)"
    return [Remark(True, what, advice=f"add labels that show others, or {_values_advice(part)}")]


def unlearnable_classes(parts: Sequence[Part], reports: Sequence[ScanReport]) -> list[Remark]:
    """The classes that no label to train on has, if there are any and all these labels were read."""
    pairs = [(part, report) for part, report in zip(parts, reports, strict=True) if part.for_training]
    if not pairs or not all(report.complete and report.labels for _, report in pairs):
        return []
    absent = set.intersection(*(set(report.absent) for _, report in pairs))
    names = tuple(name for index, name in enumerate(pairs[0][0].classes) if index in absent)
    advice = "label images that show them, draw others as the labelled part, or take the classes out"
    what = f"No label of {_named(pairs)} has these classes"
    return [Remark(True, what, names, len(names), advice)] if names else []


def _named(pairs: Sequence[tuple[Part, ScanReport]]) -> str:
    return pairs[0][0].name if len(pairs) == 1 else "any part"


def _values_advice(part: Part) -> str:
    return (
        f"say in the key label_map of the data set's YAML file what the values mean: {part.ignore_value} is read as "
        f"'ignore'"
    )


def _check_sample(cfg: CfgNode, part: Part, sample: int) -> None:
    report = part.scan(sample, seed=max(cfg.SEED, 0))
    remarks = remarks_on(part, report) + nothing_to_tell_apart([part], [report])
    problems = [str(remark) for remark in remarks if remark.fatal]
    if problems:
        hint = "" if report.complete and len(problems) == 1 else " (tools/check_dataset.py --full tells of all files)"
        raise InputError(f"{problems[0].removesuffix('.')}{hint}.")
    for remark in remarks:
        _logger.warning("%s", remark)


def _config_part(cfg: CfgNode, stream: str) -> Part:
    entries = stream_entries(cfg, stream)
    names, head, key = tuple(cfg.DATASETS[stream]), cfg.MODEL.SEM_SEG_HEAD, f"DATASETS.{stream}"
    labelled = stream != "UNLABELED"
    if labelled:
        for name in names:
            _check_classes(cfg, name, key)
    known = MetadataCatalog.get(names[0]).get("stuff_classes") if names and labelled else None
    classes = tuple(known or map(str, range(head.NUM_CLASSES)))
    title = stream_title(cfg, stream)
    return Part(title, entries, labelled, classes, head.IGNORE_VALUE, for_training=stream == "TRAIN")


def _check_classes(cfg: CfgNode, name: str, key: str) -> None:
    metadata, head = MetadataCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    where = metadata.get("definition_file", "its registration")
    classes, ignore_value = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if classes is not None and len(classes) != head.NUM_CLASSES:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but '{name}' in {key} has {len(classes)} classes "
            f"({where}); make the two equal."
        )
    if ignore_value is not None and ignore_value != head.IGNORE_VALUE:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but '{name}' in {key} has ignore_value "
            f"{ignore_value} ({where}); make the two equal."
        )

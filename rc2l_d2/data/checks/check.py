"""Check the data before training: a wrong label found after an hour has cost an hour."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ...errors import InputError
from ...host import CfgNode, MetadataCatalog
from ..datasets.catalog import dataset_channels, register_definition, stream_entries, stream_title
from ..datasets.entries import common_files, labels_among, repeated_files
from ..datasets.shards import ShardImages
from ..datasets.splits import split_entries
from ..labels.label_doubts import MAX_GUESSED
from .leaks import leaks
from .pairs import crossed_labels
from .remark import Remark
from .scan import Kind, ScanReport, Split, scan
from .small_regions import shrinking_training_regions
from .tables import contradicting_tables, tables_of

_logger = logging.getLogger(__name__)


def check_test_data(cfg: CfgNode) -> Sequence[dict]:
    """Check ``cfg.DATASETS.TEST``, reading 200 images and labels; return its entries. Raises InputError."""
    split = _config_split(cfg, "TEST")
    _check_sample(cfg, split, 200)
    return split.entries


def check_training_data(cfg: CfgNode, use_unlabeled: bool = True, sample: int = 200) -> None:
    """Check every data set that ``cfg.DATASETS`` names, as far as that is quick; warnings are logged.

    All files must exist; the classes must be MODEL.SEM_SEG_HEAD.NUM_CLASSES; no image may be in a stream twice, or in
    two streams (:func:`shared_images`). A sample of the images and labels, with the run's seed, must be readable and
    fit, and the sampled labels of DATASETS.TRAIN must have at least two classes.

    ``use_unlabeled`` False ignores DATASETS.UNLABELED, as training a supervised model does. ``sample`` images are read
    of TRAIN and of TEST, half as many of UNLABELED.

    Raises:
        InputError: names the files or the key and what to do.
    """
    splits = config_splits(cfg, use_unlabeled)
    for problem in shared_images(cfg, splits):
        raise InputError(str(problem))
    reports = [_check_sample(cfg, split, sample if split.labelled else sample // 2) for split in splits.values()]
    for finding in [*leaks(reports), *tables_of([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])]:
        _logger.warning("%s", finding)
    if warning := shrinking_training_regions(cfg, splits["TRAIN"].entries, splits["TRAIN"].classes):
        _logger.warning("%s", warning)


def config_splits(cfg: CfgNode, use_unlabeled: bool = True) -> dict[str, Split]:
    """Return what ``cfg.DATASETS`` names: "TRAIN", with ``use_unlabeled`` "UNLABELED", and "TEST".

    Raises:
        InputError: an unknown data set, missing files, other classes than the configuration's, or no training image.
    """
    streams = ("TRAIN", "UNLABELED", "TEST") if use_unlabeled else ("TRAIN", "TEST")
    splits = {stream: _config_split(cfg, stream) for stream in streams}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        _require_same_classes(cfg.DATASETS.TRAIN[0], name)
    return splits


def definition_splits(path: str | os.PathLike, names: Sequence[str] = ()) -> tuple[list[Split], list[Remark]]:
    """Return splits of a data set's YAML file, and warnings: of labels for some images, of class tables beside labels.

    Labelled are the splits with a label for every image. ``names`` are keys of ``parts``; none takes all.

    Raises:
        InputError: the file cannot be used, it has no such split, or images are missing.
    """
    definition = register_definition(path)
    unknown = [name for name in names if name not in definition.splits]
    if unknown:
        raise InputError(f"{path}: there is no split '{unknown[0]}'; the splits are {', '.join(definition.splits)}.")
    splits, remarks, labels = [], contradicting_tables(definition), 0
    for name in names or definition.splits:
        title = f"split '{name}'"
        entries = split_entries(definition, name, "existing")
        labels += len(entries.label_files)
        bare = len(entries) - len(entries.label_files)
        if 0 < bare < len(entries):
            first = next(entry["file_name"] for entry in entries if "sem_seg_file_name" not in entry)
            what = f"{title} is checked without labels, as {bare} of {len(entries)} images have none"
            remarks.append(Remark(False, what, (first,), bare))
        stated = definition.ignore_stated
        splits.append(Split(title, entries, not bare, definition.classes, definition.ignore_value, not bare, stated))
    in_files = [split.entries for split in splits if not isinstance(split.entries.images, ShardImages)]
    if definition.labels and in_files and not labels:
        first = in_files[0][0]
        rules = [os.path.join(definition.root(), rule.path(first["image_id"])) for rule in definition.labels]
        what = f"No image has a label where the key 'labels' says, as {first['file_name']} shows"
        advice = "correct the key 'labels' or label_suffix, or leave 'labels' out if there are none"
        remarks.append(Remark(True, what, tuple(rules), len(rules), advice))
    return splits, remarks


def shared_images(cfg: CfgNode, splits: dict[str, Split]) -> list[Remark]:
    """Return a problem for each way in which files are used twice.

    An image may be in a training stream once; in no training stream if it is a test image; and, unless
    DATASETS.ALLOW_OVERLAP, not in both of them. (Data sets of DATASETS.TEST are evaluated one by one and may overlap.)
    No label file may be an unlabelled image.
    """
    remarks = []

    def add(what: str, files: Sequence[str], advice: str, kind: str = "image") -> None:
        if files:
            what = f"{what} {len(files)} {kind}{'s' if len(files) > 1 else ''}"
            remarks.append(Remark(True, what, tuple(files[:10]), len(files), advice))

    entries = {stream: split.entries for stream, split in splits.items()}
    for stream in [stream for stream in entries if stream != "TEST"]:
        repeated = repeated_files(entries[stream])
        add(f"{splits[stream].name} repeats", repeated, "name only data sets that have none in common")
        shared = common_files(entries[stream], entries["TEST"])
        advice = "take them out of one of the two, or the result is not valid"
        add(f"DATASETS.{stream} and DATASETS.TEST share", shared, advice)
    if "UNLABELED" not in entries:
        return remarks
    for stream in ("TRAIN", "TEST"):
        labels = labels_among(entries[stream], entries["UNLABELED"])
        advice = "give image_suffix, or a folder or pattern without labels, in the data set's YAML file"
        add(f"DATASETS.UNLABELED and the labels of DATASETS.{stream} share", labels, advice, "file")
    if not cfg.DATASETS.ALLOW_OVERLAP:
        advice = "take them out of one of the two, or set DATASETS.ALLOW_OVERLAP to True to use them in both"
        shared = common_files(entries["TRAIN"], entries["UNLABELED"])
        add("DATASETS.TRAIN and DATASETS.UNLABELED share", shared, advice)
    return remarks


def remarks_on(report: ScanReport) -> list[Remark]:
    """Return the findings in a split, with warnings of classes that no label has and of labels of other images."""
    split, remarks = report.split, []
    read = "read" if report.complete else f"read, of {len(split.entries)} in all"
    for kind in [kind for kind in Kind if report.problems[kind]]:
        title, count = kind.title, report.problems[kind]
        if kind is Kind.VALUES_OUTSIDE:
            title += f" (0 to {len(split.classes) - 1}) and not the ignore value {split.ignore_value}"
        # Ignored labels spoil training if there are no others.
        fatal = kind.fatal or (kind is Kind.ALL_IGNORED and count == report.scanned)
        what = f"{split.name} has {title} ({count} of {report.scanned} {read})"
        names, details = zip(*report.examples[kind], strict=True)
        remarks.append(Remark(fatal, what, names, count, kind.advice, details))
    if report.guessed:
        fraction = report.guessed / int(report.pixels.sum() + report.ignored)
        what = (
            f"{split.name} has the value {split.ignore_value} on {report.guessed} pixels ({100 * fraction:.2g} % of "
            f"the labels read), which is taken for 'no class' by default"
        )
        advice = (
            f"write 'ignore_value: {split.ignore_value}' into the data set's YAML file if it is none, else 'threshold: "
            f"128' for masks of one object (1 if some have 1 as the object), or a label_map"
        )
        remarks.append(Remark(fraction > MAX_GUESSED, what, advice=advice))
    if report.labels and report.absent:
        count = len(report.absent)
        what = f"{split.name} has no pixel of {count} of {len(split.classes)} classes ({report.labels} labels {read})"
        advice = f"if they are in the files, {_values_advice(split)}"
        remarks.append(Remark(False, what, tuple(report.absent), count, advice))
    return remarks + crossed_labels(split)


def class_problems(reports: Sequence[ScanReport], absent_too: bool = True) -> list[Remark]:
    """Return problems of all training labels together: they show one class alone, as a mask of 0 and 255 may.

    With ``absent_too``, where all labels were read, classes that no label has are a problem too.
    """
    reports = [report for report in reports if report.split.for_training]
    if not any(report.labels for report in reports):
        return []
    split = reports[0].split
    title = split.name if len(reports) == 1 else "any split"
    absent = tuple(name for name in split.classes if all(name in report.absent for report in reports))
    if len(absent) == len(split.classes) - 1 > 0:
        (shown,) = set(split.classes) - set(absent)
        what = f"{title} shows no class but '{shown}' ({sum(report.labels for report in reports)} labels read)"
        return [Remark(True, what, advice=f"add labels that show others, or {_values_advice(split)}")]
    if absent and absent_too and all(report.complete and report.labels for report in reports):
        advice = "label images that show them, sample other labelled images, or take the classes out"
        return [Remark(True, f"No label of {title} has these classes", absent, len(absent), advice)]
    return []


def _values_advice(split: Split) -> str:
    advice = "define the values in the key label_map of the data set's YAML file"
    return f"{advice}: {split.ignore_value} is read as 'ignore'"


def _check_sample(cfg: CfgNode, split: Split, sample: int) -> ScanReport:
    report = scan(split, sample, seed=max(cfg.SEED, 0))
    remarks = remarks_on(report) + class_problems([report], absent_too=False)
    problems = [str(remark) for remark in remarks if remark.fatal]
    if problems:
        hint = "" if report.complete and len(problems) == 1 else " (tools/check_dataset.py --full lists all files)"
        raise InputError(f"{problems[0].removesuffix('.')}{hint}.")
    for remark in remarks:
        _logger.warning("%s", remark)
    return report


def _config_split(cfg: CfgNode, stream: str) -> Split:
    entries = stream_entries(cfg, stream)
    names, head = tuple(cfg.DATASETS[stream]), cfg.MODEL.SEM_SEG_HEAD
    labelled = stream != "UNLABELED"
    for name in names:
        _check_channels(cfg, name, f"DATASETS.{stream}")
        if labelled:
            _check_classes(cfg, name, f"DATASETS.{stream}")
    known = MetadataCatalog.get(names[0]).get("stuff_classes") if names and labelled else None
    classes = tuple(known or map(str, range(head.NUM_CLASSES)))
    stated = all(MetadataCatalog.get(name).get("ignore_stated", True) for name in names)
    return Split(
        stream_title(cfg, stream), entries, labelled, classes, head.IGNORE_VALUE, stream == "TRAIN", stated,
        held_out=stream == "TEST",
    )  # fmt: skip


def _require_same_classes(first: str, other: str) -> None:
    """Refuse two data sets whose classes have other names or another order: predictions would be misnamed."""
    names, others = (MetadataCatalog.get(name).get("stuff_classes") or () for name in (first, other))
    if not names or not others or list(names) == list(others):
        return
    index = next(i for i, pair in enumerate(zip(names, others, strict=True)) if pair[0] != pair[1])
    raise InputError(
        f"The classes of '{first}' and '{other}' differ (class {index} is '{names[index]}' and '{others[index]}'); "
        "give both the same names in the same order in their YAML files."
    )


def _check_classes(cfg: CfgNode, name: str, key: str) -> None:
    metadata, head = MetadataCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    where = metadata.get("definition_file", "its registration")
    classes, ignore_value = metadata.get("stuff_classes"), metadata.get("ignore_label")
    problem = ""
    if classes is not None and len(classes) != head.NUM_CLASSES:
        problem = f"NUM_CLASSES is {head.NUM_CLASSES}, but '{name}' in {key} has {len(classes)} classes"
    elif ignore_value not in (None, head.IGNORE_VALUE):
        problem = f"IGNORE_VALUE is {head.IGNORE_VALUE}, but '{name}' in {key} has ignore_value {ignore_value}"
    if problem:
        raise InputError(f"MODEL.SEM_SEG_HEAD.{problem} ({where}); make the two equal.")


def _check_channels(cfg: CfgNode, name: str, key: str) -> None:
    channels, numbers = dataset_channels(name), len(cfg.MODEL.PIXEL_MEAN)
    if channels != numbers:
        raise InputError(
            f"MODEL.PIXEL_MEAN has {numbers} numbers, but '{name}' in {key} has images of {channels} bands; give "
            f"PIXEL_MEAN and PIXEL_STD a number for each band."
        )

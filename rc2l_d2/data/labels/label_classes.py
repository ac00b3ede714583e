"""Find the classes in a folder of label images, and name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ...errors import InputError
from ..loading.reading import read_label
from .class_names import ClassNames, key_text, match_names, parse_key
from .label_doubts import check_colors, check_instances, check_smooth_edges, check_usual_ignore, merged_keys
from .label_map import IGNORE, OTHER, LabelMap, channels_of, voc_color_map
from .raw_labels import Color, RawLabels, marked_no_data

# Usual value of "no class", and its colour in Pascal VOC's labels (borders).
IGNORE_VALUE, IGNORE_COLOR = 255, 0xE0E0C0
# More unnamed values than this come from masks that were resized smoothly or were JPEGs.
_MAX_UNNAMED = 40
_MAX_CLASSES = 254


@dataclass(frozen=True)
class IgnoredKeys:
    """What is no class, as a user says."""

    keys: tuple[int, ...] = ()  # values, or colours as 0xrrggbb
    other: bool = False  # every value without a name

    @classmethod
    def parse(cls, text: str) -> IgnoredKeys:
        """Read ``255``, ``#e0e0c0`` or ``other``, or several with commas; InputError for anything else."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        try:
            keys = tuple(parse_key(word.lower()) for word in words if word != OTHER)
        except ValueError as error:
            raise InputError(f"--ignore is {text}; give values, colours as '#e0e0c0', or the word other.") from error
        return cls(keys, OTHER in words)


@dataclass(frozen=True)
class FoundClasses:
    """The classes of a data set."""

    names: tuple[str, ...]  # of the classes that occur
    keys: tuple[int, ...]  # the value or colour of each class in the label files
    ignored: tuple[int, ...]  # values or colours of no class
    colors: bool  # whether keys are colours
    palette: tuple[Color, ...]
    pixels: np.ndarray  # (n, K) int64, pixels of each class in each label
    left_out: tuple[str, ...]  # names of values that no label has
    ignored_pixels: dict[int, int] = field(default_factory=dict)  # of each value or colour of no class
    guessed: tuple[int, ...] = ()  # those of ``ignored`` that nobody named
    other: bool = False  # whether all else is no class
    tolerance: int = 0  # see LabelMap
    threshold: float | None = None  # masks of one object; keys are then 0 and 1
    notes: tuple[str, ...] = ()  # on what names them

    def label_keys(self) -> dict[str, object]:
        """The keys label_map and threshold of the data set's YAML file; none if values are class indices already."""
        if self.threshold is not None:
            return {"threshold": self.threshold}
        plain = not (self.colors or self.tolerance or self.other) and self.keys == tuple(range(len(self.keys)))
        if plain and set(self.ignored) <= {IGNORE_VALUE}:
            return {}
        written = {self.key_text(key): name for key, name in zip(self.keys, self.names, strict=True)}
        written |= {self.key_text(key): IGNORE for key in self.ignored if not self.other}
        written |= {"tolerance": self.tolerance} if self.tolerance else {}
        return {"label_map": written | ({OTHER: IGNORE} if self.other else {})}

    def read_map(self) -> LabelMap | None:
        """The map that reads the label files; None if values are class indices already."""
        keys = self.label_keys()
        if self.threshold is not None:
            return LabelMap.of_threshold(self.threshold)
        return LabelMap.from_yaml(keys["label_map"], self.names, self.palette, IGNORE_VALUE) if keys else None

    def key_text(self, key: int) -> int | str:
        """A value or colour as written in the YAML file."""
        if self.threshold is not None:
            return f"{'>=' if key else '<'} {self.threshold:g}"
        return key_text(key, self.colors)


def read_masks(files: Sequence[str], threshold: float, names: ClassNames, where: str) -> FoundClasses:
    """Count the two classes of masks of one object: values of ``threshold`` and more are the second class.

    Raises:
        InputError: a file cannot be read, no mask or every pixel reaches the threshold, or there is not one name for
            each side of it.
    """
    sides = _mask_names(names, threshold)
    label_map = LabelMap.of_threshold(threshold)

    def count(path: str) -> np.ndarray:
        return np.bincount(read_label(path, label_map).ravel(), minlength=2)

    with ThreadPoolExecutor() as pool:
        pixels = np.array(list(pool.map(count, files)), np.int64)
    if not pixels.any(axis=0).all():
        side = "reaches" if not pixels[:, 1].any() else "lies below"
        raise InputError(f"No pixel of the masks in {where} {side} --threshold {threshold:g}; give another.")
    return FoundClasses(sides, (0, 1), (), False, voc_color_map(2), pixels, (), threshold=threshold)


def _mask_names(names: ClassNames, threshold: float) -> tuple[str, ...]:
    """Return the names of values below ``threshold``, and of others; a colour counts with its largest channel."""
    given = names.ordered or tuple(names.by_key.values())
    if IGNORE in given:
        raise InputError(f"--threshold gives every pixel a class, but --classes has the name '{IGNORE}'; give others.")
    if given and len(given) != 2:
        raise InputError(f"--threshold makes two classes, but --classes has {len(given)} names; give two.")
    levels = {max(channels_of(key)) if names.colors else key: name for key, name in names.by_key.items()}
    sides = {level >= threshold: name for level, name in levels.items()}
    if len(sides) == 1:
        side = "from" if True in sides else "below"
        raise InputError(
            f"--classes gives both names to values {side} --threshold {threshold:g}; name one below it and one from it "
            f"on, as --classes 0=background,255=object."
        )
    return (sides[False], sides[True]) if sides else given or ("background", "object")


def no_data_notes(files: Sequence[str], classes: FoundClasses) -> Iterator[str]:
    """Notes on values with a class that some of the label ``files`` mark as no data, as GeoTIFFs can."""
    for value, number in marked_no_data(files).items():
        advice = f"give --ignore {value} if it has no class"
        if classes.threshold is not None:
            key = int(value >= classes.threshold)
            advice = f"leave --threshold out, name the values with --classes and {advice}"
        elif value in classes.keys and not classes.colors:
            key = classes.keys.index(value)
        else:
            continue
        yield f"{number} labels mark {value} as no data, but it is the class {classes.names[key]}; {advice}."


def name_classes(
    raw: RawLabels, names: ClassNames, where: str, ignore: IgnoredKeys | None = None, tolerance: int = 0
) -> FoundClasses:
    """Name the values or colours of labels in the folder ``where``.

    ``names`` and ``ignore`` say what values mean; the name "ignore" marks a value as no class. 255 (as a colour, that
    of Pascal VOC's borders) is otherwise no class if there are two others and it covers few pixels. Without names a
    value v becomes ``class<v>``, the n-th colour ``class<n>``. ``tolerance``: see :class:`LabelMap`.

    Raises:
        InputError: fewer than two classes, too many values, names that could meet values wrongly, or a sign that values
            are not what they seem (:mod:`.label_doubts`).
    """
    ignore = ignore or IgnoredKeys()
    keys, guessed = _keys_with_class(raw, names, where, ignore, tolerance)
    if names:
        named, left_out = match_names(names, keys, raw.colors, where)
    else:
        named, left_out = {key: f"class{place if raw.colors else key}" for place, key in enumerate(keys)}, []
    kept = tuple(key for key, name in named.items() if name != IGNORE)
    if len(kept) < 2:
        by = names.file or "--classes"
        raise InputError(f"{by} leaves fewer than two classes of the labels in {where}; name two at least.")
    own = tuple(raw.palette.get(key) for key in kept)
    column = _columns(raw, kept, tolerance)
    pixels = np.zeros((len(raw.pixels), len(kept)), np.int64)
    for place in range(len(kept)):
        pixels[:, place] = raw.pixels[:, column == place].sum(axis=1)
    ignored = [key for key, place in zip(raw.keys, column, strict=True) if place == len(kept)]
    return FoundClasses(
        names=tuple(named[key] for key in kept),
        keys=kept,
        ignored=tuple(ignored),
        colors=raw.colors,
        # The labels' own colours if each class has a different one, else Pascal VOC's.
        palette=own if None not in own and len(set(own)) == len(own) else voc_color_map(len(own)),
        pixels=pixels,
        left_out=tuple(name for name in left_out if name != IGNORE),
        ignored_pixels={key: raw.totals[key] for key in ignored},
        guessed=guessed,
        other=ignore.other,
        tolerance=tolerance,
        notes=_edge_notes(raw, list(kept), where) if names.file and not tolerance else (),
    )


def _edge_notes(raw: RawLabels, keys: list[int], where: str) -> tuple[str, ...]:
    """A note where values that a table names look like edges; a thin class may look so too."""
    try:
        check_smooth_edges(raw, keys, where)
    except InputError as doubt:
        return (str(doubt),)
    return ()


def _keys_with_class(
    raw: RawLabels, names: ClassNames, where: str, ignore: IgnoredKeys, tolerance: int
) -> tuple[list[int], tuple[int, ...]]:
    """Return the values or colours that are classes, and those that are taken for no class; see :func:`name_classes`.

    Raises:
        InputError: fewer than two or too many, or a sign that values are not what they seem.
    """
    usual = IGNORE_COLOR if raw.colors else IGNORE_VALUE
    stated = set(ignore.keys) | {key for key, name in names.by_key.items() if name == IGNORE}
    keys = [key for key in raw.keys if key not in stated]
    # As many names as values: 255 may have one.
    known = usual in names.by_key or len(names.ordered) == len(keys)
    guessed = (usual,) if usual in keys and len(keys) > 2 and not known else ()
    keys = [key for key in keys if key not in guessed]
    kind = "colours" if raw.colors else "values"
    if len(keys) < 2:
        only = f" ({key_text(keys[0], raw.colors)})" if keys else ""
        raise InputError(
            f"The labels in {where} hold one value only{only}; a model needs two classes at least, so add labels with "
            f"others, or give --threshold 128 if they are masks in an alpha channel."
        )
    if ignore.other and not names.by_key:
        raise InputError("--ignore other needs names with values; give --classes VALUE=NAME,...")
    if tolerance:
        keys = merged_keys(raw, keys, list(names.by_key), tolerance)
    if ignore.other:
        keys = [key for key in keys if key in names.by_key]
    if not names:
        check_instances(raw, keys, where)
    if not names.by_key and not tolerance:
        check_colors(raw, [*keys, *guessed], where)
        check_smooth_edges(raw, [*keys, *guessed], where)
    if guessed:
        check_usual_ignore(raw, usual, names, where)
    if len(keys) > (_MAX_CLASSES if names else _MAX_UNNAMED):
        raise InputError(
            f"The labels in {where} hold {len(keys)} {kind}; name them with --classes, at most {_MAX_CLASSES}, or if "
            f"masks were resized smoothly or saved as JPEG, save them again (nearest neighbour, PNG), or give "
            f"--threshold 128 for masks of one object."
        )
    return keys, guessed


def _columns(raw: RawLabels, keys: tuple[int, ...], tolerance: int) -> np.ndarray:
    """The place in ``keys`` of each value or colour that occurs, len(keys) for what is no class: (len(raw.keys),)."""
    targets = tuple(range(len(keys)))
    label_map = LabelMap(keys, targets, len(keys), raw.colors, tolerance)
    found = np.array([*map(channels_of, raw.keys)], np.uint8).reshape(-1, 3) if raw.colors else np.array(raw.keys)
    return label_map.apply(found[None])[0]

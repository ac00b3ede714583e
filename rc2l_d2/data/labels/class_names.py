"""Names of classes as a user gives them, and the values that they belong to."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ...errors import InputError, first_few
from .label_map import IGNORE, NO_CLASS

_NO_CLASS = {"void", "unlabeled", "unlabelled", "unknown", "undefined", "nodata", "unclassified", "unannotated",
             "ignore", "ignored", "dontcare", "none", "null", "invalid"}  # fmt: skip
_PAIR = re.compile(r"(\d{1,5}|#[0-9a-fA-F]{6})=(.*)", re.DOTALL)
# Entries of labelme's lists of labels, which count from -1.
_LABELME_FIRST, _LABELME_SECOND = NO_CLASS, "_background_"


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of the values 0, 1, 2, ..., or the name of each value or colour; empty without any."""

    ordered: tuple[str, ...] = ()
    by_key: dict[int, str] = field(default_factory=dict)  # a value, or a colour as 0xrrggbb
    colors: bool = False  # whether the keys are colours
    file: str = ""  # that gives them, or "" for the option

    def __bool__(self) -> bool:
        return bool(self.ordered or self.by_key)


def refuse_equal_names(names: Sequence[str]) -> None:
    """Refuse classes without a name, and those that differ in case or blanks alone, as typed names do."""
    known: dict[str, str] = {}
    for name in names:
        plain = " ".join(name.casefold().split())
        if not plain:
            raise InputError("The labels have a class without a name; give it one.")
        if known.setdefault(plain, name) is not name:
            raise InputError(
                f"The labels have the classes '{known[plain]}' and '{name}', which differ in case or blanks alone; "
                f"give both one name."
            )


def parse_class_names(text: str) -> ClassNames:
    """Read ``sky,road``, or ``0=sky,255=road`` or ``#804080=road,...``: fields of a line of CSV, with its quotes.

    Raises:
        InputError: quotes that do not match, an empty name, one twice, or names with and without a value.
    """
    try:
        (fields,) = csv.reader([text], skipinitialspace=True, strict=True) if text else [[]]
    except (csv.Error, ValueError) as error:
        raise InputError(
            f"--classes cannot be read ({error}); give names separated by commas, and one that has a comma in quotes: "
            f"""--classes 'road,"tree, small"'."""
        ) from error
    fields = [name.strip() for name in fields]
    pairs = [_PAIR.fullmatch(name) for name in fields]
    keys = [parse_key(pair[1]) for pair in pairs if pair]
    if keys and len(keys) < len(fields):
        raise InputError("--classes gives some names a value and others none; write all of them as VALUE=NAME.")
    names = [pair[2].strip() for pair in pairs if pair] or fields
    twice = sorted({name for name in names if name != IGNORE and names.count(name) > 1})
    if not keys and (twice or not all(names)) or not all(names):
        problem = f"names '{twice[0]}' twice" if twice and all(names) else "has an empty name"
        raise InputError(f"--classes {problem}; give each class a name of its own, separated by commas.")
    if not keys:
        _check_labelme(names)
        return ClassNames(tuple(names))
    colors = [name.startswith("#") for name in fields]
    if len(set(keys)) < len(keys) or len(set(colors)) > 1:
        raise InputError("--classes has a value twice, or values and colours; give each value or colour one name.")
    if twice:
        raise InputError(
            f"--classes gives several values the name '{twice[0]}'; give each its own, and join them in label_map of "
            f"the data set's YAML file."
        )
    return ClassNames((), dict(zip(keys, names, strict=True)), colors[0])


def parse_key(text: str) -> int:
    """Return a value, or a colour ``#rrggbb`` as 0xrrggbb; ValueError for anything else."""
    return int(text[1:], 16) if text.startswith("#") and len(text) == 7 else int(text)


def key_text(key: int, colors: bool) -> int | str:
    """Return a value, or a colour as ``#rrggbb``."""
    return f"#{key:06x}" if colors else key


def match_names(names: ClassNames, keys: Sequence[int], colors: bool, where: str) -> tuple[dict[int, str], list[str]]:
    """Return the name of each of the ``keys`` that label files hold, ascending; and names of values that none holds.

    Names without values are accepted only in the order of the values 0, 1, 2, ..., of which the first and the last
    occur, or for the two values of a mask.

    Raises:
        InputError: names could meet values wrongly, or a value has no name; shows names with values.
    """
    kind = ("colour" if colors else "value") + "s" * (len(keys) != 1)
    shown = first_few([key_text(key, colors) for key in keys])
    found = f"the labels in {where} hold {len(keys)} {kind} ({shown})"
    if names.by_key:
        unnamed = [key_text(key, colors) for key in keys if key not in names.by_key] if names.colors == colors else keys
        if unnamed and names.colors != colors:
            raise InputError(f"--classes names {'values' if colors else 'colours'}, but {found}; name these.")
        if unnamed:
            advice = f"add {'it there' if names.file else f'{unnamed[0]}=NAME'}"
            raise InputError(
                f"{names.file or '--classes'} has no name for {first_few(unnamed)}, but {found}; {advice}, or "
                f"--ignore {unnamed[0]} (--ignore other for all without a name)."
            )
        # Classes have the order in which they are given.
        known = {key: name for key, name in names.by_key.items() if key in keys}
        return known, [name for key, name in names.by_key.items() if key not in keys]
    ordered = list(names.ordered)
    if not colors and keys[0] == 0 and keys[-1] == len(ordered) - 1:
        return {key: ordered[key] for key in keys}, [n for key, n in enumerate(ordered) if key not in keys]
    if not colors and keys[0] == 0 and len(keys) == len(ordered) == 2:
        return dict(zip(keys, ordered, strict=True)), []
    pairs = zip(keys, [*ordered, *["NAME"] * len(keys)], strict=False)
    example = ",".join(quoted(f"{key_text(key, colors)}={name}") for key, name in list(pairs)[:40])
    raise InputError(
        f"--classes has {len(ordered)} names, but {found}, so that the value of each name is not certain; give every "
        f"{kind[:-1]} its name, for example --classes '{example}', with the word ignore for no class."
    )


def _check_labelme(names: list[str]) -> None:
    wrong = _LABELME_FIRST if _LABELME_FIRST in names else _LABELME_SECOND
    if wrong in names and (wrong == _LABELME_FIRST or names[0] != wrong):
        raise InputError(
            f"--classes has the entry '{wrong}' of labelme's lists, which count from -1; leave '{_LABELME_FIRST}' out "
            f"so that '{_LABELME_SECOND}' is the first name, of value 0, or write all names as VALUE=NAME."
        )


def quoted(text: str) -> str:
    """Return a field of a line of CSV, in quotes where it needs them."""
    doubled = text.replace('"', '""')
    return f'"{doubled}"' if set(text) & set(',"') else text


def may_be_none(name: str) -> bool:
    """Whether a class has one of _NO_CLASS in its name, as "void--unlabeled", "unlabeledArea" or "no data"."""
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return not _NO_CLASS.isdisjoint([*words, *map("".join, pairwise(words))])

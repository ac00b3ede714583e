"""A comparison as its YAML file describes it: methods x draws of labelled images x seeds, and what must come out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .targets import Target, parse_targets

_KEYS = ("title", "config", "output", "overrides", "methods", "draws", "seeds", "targets")
_METHOD_KEYS = ("label", "overrides")
_DRAW_KEYS = ("label", "methods", "overrides")
# Set for each run by the tool itself.
_TAKEN = ("SEED", "OUTPUT_DIR")


@dataclass(frozen=True)
class Method:
    """One way to train: overrides (config key -> value)."""

    name: str
    label: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Draw:
    """One choice of labelled images: overrides in which {seed} stands for the seed, and the methods that run on it."""

    name: str
    label: str
    methods: tuple[str, ...]
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One cell and seed of the matrix; ``overrides`` is the list KEY VALUE ... for the command line."""

    method: str
    draw: str
    seed: int
    config: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method}, {self.draw}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Where the run writes, below the folder of all runs."""
        return f"{self.method}/{self.draw}/seed{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """All that a comparison's file says; methods and draws by name, in its order.

    Attributes:
        config: the config file of every run, on which all overrides stand.
        output: folder of runs and report; comparisons that name the same one share the runs that both have.
    """

    file: Path
    title: str
    config: str
    output: Path
    overrides: Mapping[str, Any]
    methods: Mapping[str, Method]
    draws: Mapping[str, Draw]
    seeds: tuple[int, ...]
    targets: tuple[Target, ...]

    @property
    def name(self) -> str:
        return self.file.stem

    def cells(self) -> list[tuple[str, str]]:
        """(method, draw), draw by draw."""
        return [(method, draw.name) for draw in self.draws.values() for method in draw.methods]

    def references(self) -> list[str]:
        """Draws on which fewer methods run than on others: what the others are measured by."""
        most = max(len(draw.methods) for draw in self.draws.values())
        return [name for name, draw in self.draws.items() if len(draw.methods) < most]

    def runs(self) -> list[Run]:
        """Every run, in the order in which they are made.

        Seed by seed, so that an interrupted matrix compares all methods on the seeds that it has; and within a seed the
        references first, without which the rest says little.
        """
        references = self.references()
        cells = sorted(self.cells(), key=lambda cell: cell[1] not in references)
        return [self._run(seed, *cell) for seed in self.seeds for cell in cells]

    def _run(self, seed: int, method_name: str, draw_name: str) -> Run:
        method, draw = self.methods[method_name], self.draws[draw_name]
        values = {**self.overrides, **method.overrides, **draw.overrides, "SEED": seed}
        words = [word for key, value in values.items() for word in (key, _as_text(_filled(value, seed)))]
        return Run(method_name, draw_name, seed, self.config, tuple(words))


def load_comparison(path: str) -> Comparison:
    """Read a comparison's YAML file.

    Raises:
        InputError: the file cannot be read, a key is unknown or missing, or a value cannot be used; names file and key.
    """
    file = Path(path)
    raw = _read(file)
    _refuse_unknown(raw, _KEYS, file, "")
    methods = {
        name: Method(
            name,
            _text(value.get("label", name), file, f"methods.{name}.label"),
            _overrides(value, file, f"methods.{name}.overrides"),
        )
        for name, value in _named(raw, "methods", _METHOD_KEYS, file).items()
    }
    draws = {
        name: Draw(
            name,
            _text(value.get("label", name), file, f"draws.{name}.label"),
            _methods_of(value.get("methods", list(methods)), methods, file, f"draws.{name}.methods"),
            _overrides(value, file, f"draws.{name}.overrides"),
        )
        for name, value in _named(raw, "draws", _DRAW_KEYS, file).items()
    }
    seeds = raw.get("seeds")
    usable = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not usable or len(set(seeds)) < len(seeds):
        raise InputError(f"{file}: the key 'seeds' must be a list of different whole numbers from 0.")
    targets = parse_targets(raw.get("targets", []), {name: draw.methods for name, draw in draws.items()}, str(file))
    title = _text(raw.get("title", file.stem), file, "title")
    config = _text(raw.get("config"), file, "config")
    output = Path(_text(raw.get("output", f"output/comparison/{file.stem}"), file, "output"))
    overrides = _overrides(raw, file, "overrides")
    return Comparison(file, title, config, output, overrides, methods, draws, tuple(seeds), targets)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1_30 is a name; YAML 1.1 would read it as the number 130."""


_INT = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise InputError(f"The comparison {file} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark else ""
        raise InputError(f"{file}: this is not valid YAML{line}; correct it.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: a comparison holds the keys {', '.join(_KEYS)}; configs/comparison has examples.")
    return raw


def _named(raw: Mapping[str, Any], key: str, known: Sequence[str], file: Path) -> dict[str, dict[str, Any]]:
    """The value of ``key``: dictionaries by a name that can be a folder's."""
    values = raw.get(key)
    if not isinstance(values, dict) or not values:
        raise InputError(f"{file}: the key '{key}' must hold at least one name with {', '.join(known)}.")
    for name, value in values.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{file}: '{name}' under '{key}' is not a name; use letters, digits, _, ., + and -.")
        if not isinstance(value, dict):
            raise InputError(f"{file}: the key '{key}.{name}' must hold some of {', '.join(known)}.")
        _refuse_unknown(value, known, file, f"{key}.{name}.")
    return values


def _methods_of(names: Any, methods: Mapping[str, Method], file: Path, key: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise InputError(f"{file}: the key '{key}' must be a list of methods.")
    for name in names:
        if name not in methods:
            raise InputError(f"{file}: the key '{key}' names the method '{name}'; known are {', '.join(methods)}.")
    return tuple(names)


def _overrides(raw: Mapping[str, Any], file: Path, key: str) -> dict[str, Any]:
    values = raw.get("overrides", {})
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{file}: the key '{key}' must hold config keys and values, as SOLVER.MAX_ITER: 1500.")
    for name, value in values.items():
        if name in _TAKEN:
            raise InputError(f"{file}: '{key}' sets {name}, which the tool sets for each run; remove it.")
        if isinstance(value, dict):
            raise InputError(f"{file}: '{key}.{name}' holds keys; write each config key in full, as SOLVER.MAX_ITER.")
    return values


def _refuse_unknown(raw: Mapping, known: Sequence[str], file: Path, prefix: str) -> None:
    for key in raw:
        if key not in known:
            raise InputError(f"{file}: unknown key '{prefix}{key}'; known are {', '.join(known)}.")


def _text(value: Any, file: Path, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{file}: the key '{key}' must be text.")
    return value


def _filled(value: Any, seed: int) -> Any:
    if isinstance(value, list):
        return [_filled(item, seed) for item in value]
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else value


def _as_text(value: Any) -> str:
    """The word that config overrides read as this value; double quotes, which a shell needs no escapes for."""
    if isinstance(value, list):
        return f"[{', '.join(json.dumps(item) if isinstance(item, str) else _as_text(item) for item in value)}]"
    return value if isinstance(value, str) else repr(value)

"""The run list of a comparison: every method on its splits with every seed, as a YAML file describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..engine import load_config
from ..errors import InputError, one_line
from ..yaml_files import parse_yaml
from .stored import StoredRun, check_settings, compared_settings, read_folder, read_record

_KEYS = ("title", "config", "output", "overrides", "methods", "splits", "seeds", "baseline")
_METHOD_KEYS, _SPLIT_KEYS = ("label", "overrides"), ("label", "overrides", "methods")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        folder: its OUTPUT_DIR, below the output folder of the comparison.
        arguments: command line of train_net.py; ``--resume`` starts from the beginning where there is no checkpoint.
        settings: flat configuration, see :func:`.stored.compared_settings`.
    """

    method: str
    split: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    settings: Mapping[str, Any]
    burn_in: int

    def __str__(self) -> str:
        return f"{self.method}, {self.split}, seed {self.seed}"

    def record_file(self, records: Path) -> Path:
        """Return the path of this run's record in a folder of records."""
        return records / self.method / self.split / f"seed{self.seed}.json"

    def finished(self, records: Path | None = None) -> StoredRun | None:
        """Read the results from the run's folder or, without one, from its record; None if the run has not finished.

        Raises:
            InputError: a file is damaged, or another configuration made these results.
        """
        stored = read_folder(self.folder) or (read_record(self.record_file(records)) if records else None)
        if stored is not None:
            check_settings(stored, self.settings)
        return stored if stored and stored.finished else None


@dataclass(frozen=True)
class Comparison:
    """A validated comparison file.

    Attributes:
        name: of the file, without its suffix.
        output: folder of runs and report. Comparisons with the same folder share the runs that both list.
        methods, splits: name -> label, in the order of the file.
        baseline: the method from which the others' differences are computed.
        runs: seed by seed, so that an interrupted comparison has all methods on the seeds that it has.
    """

    name: str
    title: str
    output: Path
    methods: Mapping[str, str]
    splits: Mapping[str, str]
    baseline: str
    runs: Sequence[Run]


def load_comparison(path: str | Path, output: Path | None = None) -> Comparison:
    """Read a comparison file and the configuration of each of its runs.

    Args:
        path: the YAML file; configs/comparison holds examples.
        output: replaces the output folder that the file names.

    Raises:
        InputError: the file or a run's configuration cannot be used; names the file and key, or the run.
    """
    file = Path(path)
    try:
        raw = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The comparison {file} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid YAML ({one_line(error)}); correct it.") from error
    _check_keys(raw, _KEYS, file, "the comparison")
    methods, splits = _entries(raw, "methods", _METHOD_KEYS, file), _entries(raw, "splits", _SPLIT_KEYS, file)
    seeds, config, baseline = raw.get("seeds"), raw.get("config"), raw.get("baseline", next(iter(methods)))
    valid = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not valid or len(set(seeds)) < len(seeds) or not isinstance(config, str):
        raise InputError(f"{file}: 'seeds' must be a list of different whole numbers from 0, and 'config' a file.")
    for split, value in splits.items():
        listed = value["methods"] if value["methods"] is not None else [*methods]
        if not isinstance(listed, list) or not listed or len({*map(str, listed)}) < len(listed):
            raise InputError(f"{file}: 'splits.{split}.methods' must be a list of different methods.")
    cells = [(method, split) for split, value in splits.items() for method in value["methods"] or methods]
    for name in (baseline, *(method for method, _ in cells)):
        if not isinstance(name, str) or name not in methods:
            raise InputError(f"{file}: the method '{name}' is not in 'methods'; known: {', '.join(methods)}.")
    output = output or Path(str(raw.get("output") or f"output/comparison/{file.stem}"))
    common, runs = _overrides(raw, "overrides", file), []
    for seed in seeds:
        for method, split in cells:
            overrides = common | methods[method]["overrides"] | splits[split]["overrides"]
            runs.append(_run(method, split, seed, output, config, overrides))
    _check_test_sets(runs, file)
    labels = [{name: value["label"] for name, value in entries.items()} for entries in (methods, splits)]
    return Comparison(file.stem, raw.get("title", file.stem), output, *labels, baseline, runs)


def _check_test_sets(runs: Sequence[Run], file: Path) -> None:
    """Refuse methods that are tested on other data than the first one of their split."""
    first: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = first.setdefault((run.split, run.seed), run)
        names = [one.settings["DATASETS.TEST"] for one in (other, run)]
        if names[0] != names[1]:
            raise InputError(
                f"{file}: {run.method} and {other.method} are tested on different data in '{run.split}'; give both one "
                f"DATASETS.TEST."
            )


def _entries(raw: Mapping[str, Any], key: str, known: Sequence[str], file: Path) -> dict[str, dict[str, Any]]:
    """Return the validated methods or splits by name, each with all of its keys."""
    entries = raw.get(key)
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{file}: '{key}' must hold at least one name with {', '.join(known)}.")
    validated = {}
    for name, value in entries.items():
        # Names become folders. YAML reads 1_30 without quotes as the number 130.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{file}: '{name}' in '{key}' must be text of letters, digits and _.+-; quote numbers.")
        _check_keys(value, known, file, f"{key}.{name}")
        overrides = _overrides(value, f"{key}.{name}.overrides", file)
        validated[name] = {"label": name, "methods": None, **value, "overrides": overrides}
    return validated


def _overrides(raw: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    values = raw.get("overrides", {})
    if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
        raise InputError(f"{file}: '{key}' must hold full config keys and values, such as SOLVER.MAX_ITER: 1500.")
    for name in values.keys() & {"SEED", "OUTPUT_DIR"}:
        raise InputError(f"{file}: '{key}' sets {name}, which the tool sets for each run; remove it.")
    return values


def _check_keys(raw: Any, known: Sequence[str], file: Path, where: str) -> None:
    for key in raw if isinstance(raw, dict) else [raw]:
        if key not in known:
            raise InputError(f"{file}: {where} holds the unknown key '{key}'; known: {', '.join(known)}.")


def _run(method: str, split: str, seed: int, output: Path, config: str, overrides: Mapping[str, Any]) -> Run:
    name = f"The run '{method}, {split}, seed {seed}'"
    words = []
    for key, value in {**overrides, "SEED": seed}.items():
        text = json.dumps(value) if isinstance(value, list) else str(value)
        words += [key, text.replace("{seed}", str(seed))]
    try:
        cfg = load_config(config, words)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"{name}: DATASETS.TEST must hold exactly one data set.")
    folder = output / "runs" / method / split / f"seed{seed}"
    arguments = ("--config-file", config, "--resume", *words, "OUTPUT_DIR", str(folder), "TEST.REPORT", "False")
    burn_in = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
    return Run(method, split, seed, folder, arguments, compared_settings(cfg), burn_in)

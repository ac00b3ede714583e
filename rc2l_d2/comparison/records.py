"""Records of finished runs, small enough to commit: tables can be made again from them without days of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.whole_files import write_text
from ..errors import InputError
from ..reporting.run_metrics import read_entries
from .runs import DONE, PlannedRun, differences

_KEYS = {"settings", "attempts", "metrics"}
# What of a line of metrics.json a report reads (results.py), by the beginnings of keys. Telemetry is not kept.
_READ = ("iteration", "time", "sem_seg/mIoU", "sem_seg/IoU-", "sem_seg_teacher/mIoU", "sem_seg_teacher/IoU-")


def restore_records(plan: Sequence[PlannedRun], records: Path) -> list[str]:
    """Put the recorded runs of ``plan`` that have no folder into one, where they count as done.

    Returns:
        one sentence for each record that another configuration made, which is passed over.

    Raises:
        InputError: a record cannot be read.
    """
    passed_over = []
    for planned in plan:
        file = _file(planned, records)
        # Also a run that has begun is left alone: another call may be at work on it.
        if not file.exists() or planned.folder.exists():
            continue
        record = _read(file)
        if changes := differences(record["settings"], planned.settings):
            passed_over.append(f"{file} was made by another configuration ({changes[0]}) and is not used.")
            continue
        planned.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(entry) + "\n" for entry in record.pop("metrics"))
        # run.json last: without it a folder is none of a run.
        write_text(planned.metrics_file, lines)
        write_text(planned.record_file, json.dumps(record, indent=1))
    return passed_over


def keep_records(plan: Sequence[PlannedRun], records: Path) -> None:
    """Write one JSON file METHOD/DRAW/seedN.json below ``records`` for each complete run of ``plan``.

    It holds what ``run.json`` does and of ``metrics.json`` what a report reads. Where ``records`` has the run already,
    it is rewritten.
    """
    for planned in plan:
        try:
            if planned.state() != DONE:
                continue
        except InputError:  # Not a run of this comparison; the report says so.
            continue
        record = {**(planned.record() or {}), "metrics": _reduced(planned.metrics_file)}
        file = _file(planned, records)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record, indent=0, ensure_ascii=False) + "\n")


def _file(planned: PlannedRun, records: Path) -> Path:
    return records / f"{planned.run.folder}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The record {file} cannot be read; delete it to run it again.") from error
    if not isinstance(record, dict) or record.keys() != _KEYS:
        raise InputError(f"{file} is no record of a run; delete it to run it again.")
    return record


def _reduced(metrics_file: Path) -> list[dict[str, float]]:
    """The lines with something to report on, and nothing else of them."""
    entries = []
    for entry in read_entries(metrics_file):
        kept = {key: value for key, value in entry.items() if key.startswith(_READ)}
        if len(kept) > 1:
            entries.append(kept)
    return entries

"""Whether a configuration continues the run that its output folder holds."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..errors import InputError, first_few
from ..host import CfgNode
from .setup import flat_settings, plain_settings

# These keys change no result.
WITHOUT_EFFECT = frozenset(
    """
    OUTPUT_DIR DATALOADER.NUM_WORKERS DATALOADER.MAX_BAD_SHARE SOLVER.CHECKPOINT_PERIOD SOLVER.CHECKPOINT_KEEP
    SOLVER.REFERENCE_IMS_PER_BATCH MODEL.DEVICE TEST.REPORT VERSION VIS_PERIOD
""".split()
)
# A resumed run reads no weights but its checkpoint, and is extended on purpose.
_MAY_CHANGE = WITHOUT_EFFECT | {"MODEL.WEIGHTS", "SOLVER.MAX_ITER"}
_MUST_STAY = ("MODEL.META_ARCHITECTURE", "SOLVER.OPTIMIZER")


def changed_settings(cfg: CfgNode) -> str:
    """Return a sentence on the settings that differ from those of the run in OUTPUT_DIR; "" without any or without one.

    Call it before config.yaml is written again. A key that only one version of the project has is not compared.

    Raises:
        InputError: the run has another MODEL.META_ARCHITECTURE or SOLVER.OPTIMIZER.
    """
    folder = Path(cfg.OUTPUT_DIR)
    file = folder / "config.yaml"
    if not (folder / "last_checkpoint").is_file() or not file.is_file():
        return ""
    try:
        before = flat_settings(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, AttributeError, ValueError, OSError):  # A killed start may have left a part of it.
        return f"{file} cannot be read, so the run resumes without a comparison of its settings with the present ones."
    now = plain_settings(cfg)
    changed = [key for key in now if key in before and before[key] != now[key] and key not in _MAY_CHANGE]
    for key in _MUST_STAY:
        if key in changed:
            raise InputError(
                f"{folder} holds a run of {key} {before[key]}, which --resume cannot continue as {now[key]}; give "
                f"another OUTPUT_DIR for a run of its own."
            )
    listed = first_few([f"{key} was {before[key]!r}, is now {now[key]!r}" for key in changed])
    return f"The run in {folder} resumes with other settings than before: {listed}." if changed else ""

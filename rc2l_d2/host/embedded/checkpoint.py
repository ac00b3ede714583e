"""fvcore's checkpointer, with paths into Detectron2's model zoo."""

from __future__ import annotations

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from . import comm

_MODEL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer; only rank 0 writes, and ``detectron2://ImageNetPretrained/...`` is downloaded once."""

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        return super().load(path.replace("detectron2://", _MODEL_ZOO, 1), checkpointables)

"""Checkpoints that are written whole or not at all, and read without running code."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..host import DetectionCheckpointer
from .weights import read_weights


class RegionCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads and one-sentence errors.

    A checkpoint holds ``model`` (the student, a plain region predictor), ``ema`` (the teacher) and the trainer's state.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: to a temporary name first, so that a crash leaves no half-written file."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()}, **kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        temporary = f"{path}.tmp"
        with open(temporary, "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self.tag_last_checkpoint(os.path.basename(path))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and into those of ``checkpointables`` (all if None) that it holds.

        Raises:
            InputError: the file is missing or is not a checkpoint.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise InputError(
                f"The checkpoint {path} does not exist; give MODEL.WEIGHTS the path of a .pth or .pkl file, or leave "
                "it empty to train from scratch."
            )
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_weights(filename)


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of DistributedDataParallel where it is wrapped."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

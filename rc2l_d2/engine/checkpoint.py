"""Checkpoints that are written whole or not at all, and read without running code."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..host import DetectionCheckpointer


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
        if path and not os.path.isfile(path):
            raise InputError(f"The checkpoint {path} does not exist; give MODEL.WEIGHTS the path of a .pth or .pkl file.")
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = super()._load_file(filename)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{filename} cannot be read as a checkpoint ({reason}); give MODEL.WEIGHTS a file written by "
                "train_net.py, or a .pkl file of Detectron2's model zoo."
            ) from error
        if not isinstance(loaded.get("model"), dict):
            raise InputError(f'{filename} holds no "model" weights, so it is not a checkpoint; check MODEL.WEIGHTS.')
        return loaded


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of DistributedDataParallel where it is wrapped."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

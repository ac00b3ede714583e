"""Checkpoints that are written whole or not at all, and read without running code."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..host import DetectionCheckpointer
from .weights import read_weights, with_names_of
from .whole_files import is_whole, write_checkpoint, write_text

logger = logging.getLogger(__name__)
# Names of checkpoints of single iterations.
_NUMBERED = r"model_\d{7}"


class RegionCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads, a look for damage and one-sentence errors.

    A checkpoint holds ``model`` (the student, a plain region predictor), ``ema`` (the teacher), ``best`` (the best
    results so far) and the trainer's state.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, keep: int = 0, **checkpointables: Any):
        """
        Args:
            model: the student.
            save_dir: folder of the checkpoints.
            keep: how many of them, the newest; 0: all. The one of a finished run does not count.
            checkpointables: what else a checkpoint holds, by name.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.keep = keep

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, whole or not at all.

        Raises:
            InputError: it cannot be written; the checkpoints before it are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()}, **kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(data, path)
        self.tag_last_checkpoint(os.path.basename(path))
        if self.keep and re.fullmatch(_NUMBERED, name):
            # By their age: an OUTPUT_DIR that was used before holds later iterations of another run.
            others = sorted((other for other in self._numbered() if other != path), key=os.path.getmtime)
            for old in others[: max(0, len(others) - self.keep + 1)]:
                os.remove(old)

    def _numbered(self) -> list[str]:
        """The checkpoints of single iterations in the folder."""
        files = glob.glob(os.path.join(glob.escape(self.save_dir), "model_*.pth"))
        return [file for file in files if re.fullmatch(_NUMBERED, os.path.basename(file).removesuffix(".pth"))]

    def is_last(self, name: str) -> bool:
        """Whether ``<name>.pth`` is the last checkpoint."""
        return os.path.basename(super().get_checkpoint_file()) == f"{name}.pth"

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the last checkpoint's name in the file ``last_checkpoint``, whole or not at all."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """The last checkpoint; where it is damaged, the newest one before it that is not. "" without any.

        Raises:
            InputError: all of them are damaged.
        """
        last = super().get_checkpoint_file()
        if not last:
            return last
        # Of a fixed length, so that names are in the order of iterations; "model_final" comes after all of them.
        earlier = [path for path in self._numbered() if path < last]
        for path in [last, *sorted(earlier, reverse=True)]:
            if is_whole(path):
                return path
            logger.warning("%s is damaged or missing; the checkpoint before it is taken.", path)
        raise InputError(
            f"No checkpoint in {self.save_dir} is whole; start again without --resume, in another OUTPUT_DIR."
        )

    def refresh(self, name: str, key: str) -> None:
        """Write the present state of the checkpointable ``key`` into ``<name>.pth``, if that is the last checkpoint.

        For what comes to be known after a checkpoint was written, so that a run resumed from it knows it too.
        """
        if not self.save_to_disk or not self.is_last(name):
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        # Mapped, not read: memory that is freed stays with the process. Windows does not replace a file that is mapped.
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name == "posix")
        write_checkpoint({**data, key: self.checkpointables[key].state_dict()}, path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and into those of ``checkpointables`` (all if None) that it holds.

        Raises:
            InputError: the file is missing, is not a checkpoint, or does not fit.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise InputError(
                f"The checkpoint {path} does not exist; give MODEL.WEIGHTS the path of a .pth or .pkl file, or leave "
                "it empty to train from scratch."
            )
        try:
            return super().load(path, checkpointables)
        except (OSError, AssertionError) as error:
            if "://" not in path:
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"The checkpoint {path} could not be fetched ({reason}); download it and give MODEL.WEIGHTS the file."
            ) from error
        except InputError:
            raise
        except (RuntimeError, KeyError, ValueError) as error:
            # What torch says where the teacher, the optimizer or the scaler is that of another configuration.
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"{path} does not fit this configuration ({reason}); use the configuration that wrote it, or other "
                "weights."
            ) from error
        finally:
            # Detectron2 keeps it after a load that failed, and then asserts that the next one never happens.
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        # All that either host would read a file with: neither one's own unpickling is ever reached.
        return read_weights(filename)

    def _load_model(self, checkpoint: dict[str, Any]):
        """Load ``checkpoint["model"]`` by name and log what was loaded (the host logs what was not)."""
        # The request for Detectron2's own matching of names, which raises where ours need not.
        checkpoint.pop("matching_heuristics", None)
        model = self.model.state_dict()
        checkpoint["model"] = with_names_of(model, checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        loaded = model.keys() - set(incompatible.missing_keys)
        if not loaded:
            raise InputError(
                "None of the weights in the checkpoint has a name and shape of the model; give MODEL.WEIGHTS a file "
                "for this architecture."
            )
        parts = Counter(".".join(name.split(".")[:2]) for name in model if name in loaded)
        listed = ", ".join(f"{part} ({count})" for part, count in parts.items())
        logger.info("Loaded %d of the model's %d weights: %s", len(loaded), len(model), listed)
        return incompatible


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of DistributedDataParallel where it is wrapped."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

"""Checkpoints with atomic writes and safe reads."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import nn

from ..errors import InputError, one_line
from ..host import DetectionCheckpointer
from ..modeling import RegionSegmentor
from .weights import read_weights, with_names_of
from .whole_files import is_whole, write_checkpoint, write_text

logger = logging.getLogger(__name__)
_NUMBERED = "model_" + 7 * "[0-9]"  # the checkpoint of an iteration


class RegionCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads, a damage check and one-sentence errors.

    A checkpoint holds ``model`` (the student), ``ema`` (the teacher), ``best`` and the trainer's state.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, keep: int = 0, **checkpointables: Any):
        """
        Args:
            model: the student.
            save_dir: folder of the checkpoints.
            keep: number of the newest checkpoints of iterations that are kept; 0 keeps all.
            checkpointables: other contents of a checkpoint by name.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.keep = keep

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` atomically, then remove the oldest checkpoints beyond ``keep``.

        Raises:
            InputError: the file cannot be written; earlier checkpoints stay as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(data, path)
        self.tag_last_checkpoint(os.path.basename(path))
        if self.keep and fnmatchcase(name, _NUMBERED):
            # Sorted by age, because a reused OUTPUT_DIR may hold later iterations of an older run.
            others = sorted(self._numbered(), key=lambda other: (other == path, os.path.getmtime(other)))
            for old in others[: -self.keep]:
                os.remove(old)

    def _numbered(self) -> list[str]:
        """Return the paths of the checkpoints of single iterations."""
        return glob.glob(os.path.join(glob.escape(self.save_dir), f"{_NUMBERED}.pth"))

    def is_last(self, name: str) -> bool:
        """Return whether ``<name>.pth`` is the last checkpoint."""
        return os.path.basename(super().get_checkpoint_file()) == f"{name}.pth"

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint into the file ``last_checkpoint``, atomically."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint, or the newest intact one if it is damaged; "" without any.

        Raises:
            InputError: all of them are damaged.
        """
        last = super().get_checkpoint_file()
        if not last:
            return last
        # Names of fixed length sort by iteration; "model_final" comes last.
        for path in [last, *sorted((path for path in self._numbered() if path < last), reverse=True)]:
            if is_whole(path):
                return path
            logger.warning("%s is damaged or missing; the checkpoint before it is used instead.", path)
        raise InputError(
            f"All checkpoints in {self.save_dir} are damaged; start again without --resume, in another OUTPUT_DIR."
        )

    def refresh(self, name: str, key: str) -> None:
        """Write the present state of the checkpointable ``key`` into ``<name>.pth``, if that is the last checkpoint."""
        if not self.save_to_disk or not self.is_last(name):
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        # Mapped, because reading it would grow resident memory. Windows cannot replace a mapped file.
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name == "posix")
        write_checkpoint({**data, key: self.checkpointables[key].state_dict()}, path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and into those of ``checkpointables`` (None: all) that the file has.

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
        except InputError:
            raise
        except (OSError, AssertionError) as error:
            advice = "download it and give MODEL.WEIGHTS the file"
            raise InputError(f"The checkpoint {path} could not be fetched ({one_line(error)}); {advice}.") from error
        except (RuntimeError, KeyError, ValueError) as error:
            advice = "use the one that wrote it, or other weights"
            raise InputError(f"{path} does not fit this configuration ({one_line(error)}); {advice}.") from error
        finally:
            # Detectron2 does not reset it after a failed load, and then fails in the next one.
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read all file types safely; the unpickling of both hosts is never used."""
        return read_weights(filename)

    def _load_model(self, checkpoint: dict[str, Any]):
        """Load ``checkpoint["model"]`` by name and log what was loaded (the host logs what was not)."""
        # Detectron2's own matching of names would raise where with_names_of does not.
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
        counts = Counter(".".join(name.split(".")[:2]) for name in model if name in loaded)
        listed = ", ".join(f"{prefix} ({count})" for prefix, count in counts.items())
        logger.info("Loaded %d of the model's %d weights: %s", len(loaded), len(model), listed)
        return incompatible


def unwrap(model: nn.Module) -> RegionSegmentor:
    """Return the module inside DistributedDataParallel, or ``model`` itself."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return cast(RegionSegmentor, inner)

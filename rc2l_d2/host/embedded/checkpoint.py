"""Saving and loading checkpoints; files are read without running anything that they contain."""

from __future__ import annotations

import logging
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import PathHandler
from torch import Tensor, nn

from . import comm

# What pickles of numpy arrays and plain containers refer to. numpy has moved these functions between modules, so they
# are taken from what its arrays say of themselves.
_NUMPY_FUNCTIONS = {
    "multiarray._reconstruct": np.zeros(1).__reduce__()[0],
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_ADMITTED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    # Bytes, as Python 3 writes them in protocol 2; their encoding is always latin1.
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    **{f"numpy.{core}.{name}": f for name, f in _NUMPY_FUNCTIONS.items() for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays, their dtypes and plain containers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, and only numpy arrays are admitted")
        return _ADMITTED[f"{module}.{name}"]


class _ModelZooHandler(PathHandler):
    """``detectron2://ImageNetPretrained/...``: files of Detectron2's model zoo, downloaded once."""

    def __init__(self, path_manager):
        super().__init__()
        self._path_manager = path_manager

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        url = "https://dl.fbaipublicfiles.com/detectron2/" + path.removeprefix("detectron2://")
        return self._path_manager.get_local_path(url, force=force)


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer that also reads Detectron2's model zoo; only rank 0 writes unless ``save_to_disk`` says."""

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager.register_handler(_ModelZooHandler(self.path_manager))

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a checkpoint, from torch (``weights_only``) or, if it ends in ``.pkl``, a pickle of numpy arrays, to a
        dict with at least ``model``, a dict of tensors or arrays by name. A bare dict of arrays becomes that.

        Raises:
            ValueError: the file is not a checkpoint, holds more than data, or has Caffe2's parameter names.
        """
        try:
            if filename.endswith(".pkl"):
                with open(filename, "rb") as file:
                    loaded = _ArrayUnpickler(file, encoding="latin1").load()
            else:
                loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"{filename} cannot be read as a checkpoint: {reason}.") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename} is not a checkpoint: it holds a {type(loaded).__name__}, not a dict.")
        if "model" in loaded:
            return loaded
        if "blobs" in loaded or any("_branch2" in str(name) for name in loaded):
            raise ValueError(
                f"{filename} has Caffe2's parameter names, not read here: take a torchvision model of the zoo."
            )
        if not all(isinstance(value, (Tensor, np.ndarray)) for value in loaded.values()):
            raise ValueError(f'{filename} is not a checkpoint: it holds no "model", and more than tensors.')
        return {"model": loaded}

    def _load_model(self, checkpoint: dict[str, Any]):
        weights, model = checkpoint["model"], self.model.state_dict()
        if not any(name.startswith(("backbone.", "module.")) or name in model for name in weights):
            self._convert_ndarray_to_tensor(weights)
            checkpoint["model"] = match_names_by_suffix(model, weights)
        incompatible = super()._load_model(checkpoint)
        for name in {"pixel_mean", "pixel_std"}.intersection(incompatible.missing_keys):
            incompatible.missing_keys.remove(name)  # they come from the config, older files lack them
        return incompatible


def match_names_by_suffix(model: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that a model has for them, where a model's name ends in ".<name of the weight>".

    The longest such ending wins: ``stem.conv1.weight`` becomes ``backbone.stem.conv1.weight``. Weights that match
    nothing, or something of another shape, keep their name.

    Raises:
        ValueError: one weight would go to two parameters.
    """
    logger = logging.getLogger(__name__)
    matched: dict[str, str] = {}  # name of the weight -> name in the model
    for name in sorted(model):
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        source = next((suffix for suffix in suffixes if suffix in weights), None)
        if source is None:
            continue
        if weights[source].shape != model[name].shape:
            logger.warning("%s is not loaded: its shape is not that of the model's %s.", source, name)
            continue
        if source in matched:
            raise ValueError(f"The checkpoint's {source} fits {matched[source]} and {name}, so it can't be loaded.")
        matched[source] = name
    logger.info("%d of %d weights of the checkpoint matched by the end of their name.", len(matched), len(weights))
    return {matched.get(name, name): value for name, value in weights.items()}

"""Reading files of weights without running anything that they contain."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

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


def read_weights(filename: str) -> dict[str, Any]:
    """Read a checkpoint: a torch file (``weights_only``) or, if it ends in ``.pkl``, a pickle of numpy arrays.

    Returns:
        a dict with at least "model", tensors or arrays by name. A file of weights alone becomes that, and says with
        "matching_heuristics" that its names may lack a prefix, as Detectron2's checkpointer understands it.

    Raises:
        InputError: the file is not a checkpoint, holds more than data, or has Caffe2's parameter names.
    """
    advice = "give MODEL.WEIGHTS a file written by train_net.py, or one of Detectron2's model zoo"
    try:
        if filename.endswith(".pkl"):
            with open(filename, "rb") as file:
                loaded = _ArrayUnpickler(file, encoding="latin1").load()
        else:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # A damaged file can raise nearly anything.
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(f"{filename} cannot be read as a checkpoint ({reason}); {advice}.") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{filename} is not a checkpoint, it holds a {type(loaded).__name__}; {advice}.")
    if isinstance(loaded.get("model"), dict):
        return loaded
    if "blobs" in loaded or any("_branch2" in str(name) for name in loaded):
        raise InputError(f"{filename} has Caffe2's parameter names; take a torchvision model of the zoo.")
    if "model" in loaded or not all(isinstance(value, (Tensor, np.ndarray)) for value in loaded.values()):
        raise InputError(f'{filename} is not a checkpoint, it holds no "model" weights; {advice}.')
    return {"model": loaded, "matching_heuristics": True}

"""Safe reading of weight files."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config_files import find_weights_file
from ..errors import InputError, first_line
from .weight_names import from_torchvision, has_torchvision_names, of_backbone, without_wrappers

# Globals that pickles of numpy arrays and plain containers refer to. numpy has moved its functions between modules, so
# they are taken from the arrays themselves.
_NUMPY_FUNCTIONS = {
    "multiarray._reconstruct": np.zeros(1).__reduce__()[0],
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_ALLOWED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    # Python 3 writes bytes this way in protocol 2, always in latin1.
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    **{f"numpy.{core}.{name}": f for name, f in _NUMPY_FUNCTIONS.items() for core in ("core", "_core")},
}

# Data that other projects store beside their weights: options, and metrics as NumPy's numbers.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    _NUMPY_FUNCTIONS["multiarray.scalar"],
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]
# Keys below which projects store the weights of a model; the first that a file has is used.
_WEIGHT_KEYS = ("model", "state_dict", "model_state_dict")
_ADVICE = "give a weights file written by train_net.py, or one of Detectron2's model zoo"


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays, their dtypes and plain containers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, but only numpy arrays are allowed")
        return _ALLOWED[f"{module}.{name}"]


def read_file(filename: str) -> Any:
    """Return the content of a torch file (``weights_only``), a ``.safetensors``, or a ``.pkl`` of numpy arrays.

    Raises:
        InputError: the file cannot be read, or holds more than data.
    """
    try:
        if filename.endswith(".pkl"):
            with open(filename, "rb") as file:
                return _ArrayUnpickler(file, encoding="latin1").load()
        if filename.endswith(".safetensors"):
            return load_file(filename)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(filename, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{filename} cannot be read ({error.strerror or error}); correct the path.") from error
    except Exception as error:  # A damaged file can raise nearly anything.
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):  # Torch goes on to advise an unsafe load.
            held = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = f"it is not a torch file, or holds more than data{f': {held[1]}' if held else ''}"
        raise InputError(f"{filename} cannot be read as a checkpoint ({reason}); {_ADVICE}.") from error


def read_weights(filename: str) -> dict[str, Any]:
    """Read a checkpoint safely (:func:`read_file`).

    Prefixes of wrapped models are removed, and the names of torchvision's ResNets are changed to this project's.

    Returns:
        a dict with at least "model", tensors by name, also for a file that has them elsewhere; and "torchvision",
        whether the backbone is torchvision's.

    Raises:
        InputError: the file is not a checkpoint, holds more than data, has the names of Caffe2, or has several models.
    """
    content = read_file(filename)
    if not isinstance(content, dict):
        raise InputError(f"{filename} is not a checkpoint but a {type(content).__name__}; {_ADVICE}.")
    if not isinstance(content.get("model"), dict) and (
        "blobs" in content or any("_branch2" in str(name) for name in content)
    ):
        raise InputError(f"{filename} has Caffe2's parameter names; use a torchvision model of the zoo.")
    key, weights = _find_weights(content, filename)
    if not weights:
        raise InputError(f'{filename} is not a checkpoint, it has no "model" weights; {_ADVICE}.')
    rest = {name: value for name, value in content.items() if name != key} if key else {}
    # Detectron2's zoo, and files that tools/convert_torchvision_weights.py wrote, name the author.
    torchvision = has_torchvision_names(weights) or rest.get("__author__") == "torchvision"
    if has_torchvision_names(weights):
        weights = from_torchvision(weights, filename)
    return {**rest, "model": weights, "torchvision": torchvision}


def read_backbone_weights(filename: str) -> dict[str, Tensor]:
    """Read the weights of a backbone by name, from a file of its own or from that of a whole model.

    The file may lie in an installed package, see :func:`rc2l_d2.config_files.find_weights_file`.

    Raises:
        InputError: the file cannot be read, or is no state dict.
    """
    content = read_file(find_weights_file(filename))
    weights = _find_weights(content, filename)[1] if isinstance(content, dict) else {}
    if not weights:
        raise InputError(f"MODEL.TIMM.CHECKPOINT {filename} is not a file of weights by name; give another one.")
    backbone = of_backbone(weights)
    require_finite(backbone, filename)
    return backbone


def _find_weights(content: dict, filename: str) -> tuple[str, dict[str, Tensor]]:
    """Return the key of the weights, "" for the content itself, and the weights by name; none if there are none."""
    tables = {key: table for key, value in content.items() if (table := _tensors(value))}
    key = next((known for known in _WEIGHT_KEYS if known in tables), "")
    if not key and len(tables) > 1:
        raise InputError(
            f"{filename} holds several models ({', '.join(map(str, tables))}); save the one to use alone, with "
            "torch.save."
        )
    if not key and tables:
        (key,) = tables
    return key, without_wrappers(tables[key] if key else _tensors(content))


def require_finite(weights: Mapping[str, Tensor], filename: str) -> None:
    """Refuse weights with NaN or infinity, from which every prediction would be the same class."""
    broken = next((name for name, x in weights.items() if not x.isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{filename} has non-finite values in {broken}; use an earlier checkpoint or train again.")


def _tensors(value: Any) -> dict[str, Tensor]:
    """Return a dictionary of tensors and arrays as one of tensors; an empty one for anything else."""
    if not isinstance(value, dict) or not all(isinstance(entry, Tensor | np.ndarray) for entry in value.values()):
        return {}
    return {str(name): torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in value.items()}

"""Safe reading of weight files, and matching of weight names."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import InputError

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

# (has bottleneck blocks, blocks per stage) -> layers of a plain ResNet.
RESNET_DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
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
        return torch.load(filename, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{filename} cannot be read ({error.strerror or error}); correct the path.") from error
    except Exception as error:  # A damaged file can raise nearly anything.
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if reason.startswith("Weights only load failed"):  # Torch goes on to advise an unsafe load.
            reason = "it is not a torch file, or holds more than data"
        raise InputError(f"{filename} cannot be read as a checkpoint ({reason}); {_ADVICE}.") from error


def read_weights(filename: str) -> dict[str, Any]:
    """Read a checkpoint safely (:func:`read_file`).

    Returns:
        a dict with at least "model", tensors by name; also for a file that is only a state dict.

    Raises:
        InputError: the file is not a checkpoint, holds more than data, or has the names of Caffe2 or torchvision.
    """
    content = read_file(filename)
    if not isinstance(content, dict):
        raise InputError(f"{filename} is not a checkpoint but a {type(content).__name__}; {_ADVICE}.")
    if not isinstance(content.get("model"), dict):
        if "blobs" in content or any("_branch2" in str(name) for name in content):
            raise InputError(f"{filename} has Caffe2's parameter names; use a torchvision model of the zoo.")
        if "layer1.0.conv1.weight" in content:
            raise InputError(
                f"{filename} has torchvision's parameter names; convert it with tools/convert_torchvision_weights.py."
            )
        content = {"model": {} if "model" in content else content}
    model = content["model"].items()
    weights = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in model}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f'{filename} is not a checkpoint, it has no "model" weights; {_ADVICE}.')
    return {**content, "model": weights}


def read_backbone_weights(filename: str) -> dict[str, Tensor]:
    """Read the weights of a backbone by name, also from below "state_dict", "model" or "model_ema".

    Raises:
        InputError: the file cannot be read, or is no state dict.
    """
    content = read_file(filename)
    for key in ("state_dict", "model", "model_ema"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(x, Tensor) for x in content.values()):
        raise InputError(f"MODEL.TIMM.CHECKPOINT {filename} is not a file of weights by name; give another one.")
    return content


def resnet_depth(weights: dict[str, Tensor]) -> int | None:
    """Return the layers of the plain ResNet with these weights (Detectron2's names); None for other models."""
    stages = [{name.split(".")[1] for name in weights if name.startswith(f"res{stage}.")} for stage in (2, 3, 4, 5)]
    return RESNET_DEPTHS.get(("res2.0.conv3.weight" in weights, tuple(map(len, stages))))


def with_names_of(model: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``weights`` to the names of ``model``, alike on both hosts.

    If any weight has its final name or a ``backbone.`` prefix, names stay; only ``pixel_decoder``, which early
    MaskFormer checkpoints lack, is added. Otherwise (ImageNet backbones) each parameter gets the weight with the
    longest suffix of its name and the same shape: ``backbone.stem.conv1.weight`` gets ``stem.conv1.weight``.

    Args:
        model: state dict of the model.
        weights: from :func:`read_weights`.

    Raises:
        InputError: one weight matches two parameters.
    """
    # Frozen norms have no batch counters.
    weights = {name: value for name, value in weights.items() if name in model or "num_batches_tracked" not in name}
    if any(name.startswith(("backbone.", "module.")) or name in model for name in weights):
        head = "sem_seg_head."
        old = {name: name.replace(head, f"{head}pixel_decoder.", 1) for name in weights if name.startswith(head)}
        renamed = {name: new for name, new in old.items() if name not in model and new in model}
        return {renamed.get(name, name): value for name, value in weights.items()}
    matched: dict[str, str] = {}  # name of the weight -> name in the model
    for name, parameter in sorted(model.items()):
        words = name.split(".")
        suffixes = (".".join(words[start:]) for start in range(len(words)))
        source = next((suffix for suffix in suffixes if suffix in weights), None)
        if source is None or weights[source].shape != parameter.shape:
            continue
        if source in matched:
            raise InputError(f"The checkpoint's {source} matches {matched[source]} and {name}; rename it in the file.")
        matched[source] = name
    return {matched.get(name, name): value for name, value in weights.items()}

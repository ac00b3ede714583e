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

# (Whether its blocks are bottlenecks, how many a stage has) -> layers of a plain ResNet.
RESNET_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_ADVICE = "give a file of weights written by train_net.py, or one of Detectron2's model zoo"


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays, their dtypes and plain containers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, and only numpy arrays are admitted")
        return _ADMITTED[f"{module}.{name}"]


def read_file(filename: str) -> Any:
    """What a torch file (read with ``weights_only``) or, if it ends in ``.pkl``, a pickle of numpy arrays holds.

    Raises:
        InputError: the file cannot be read, or holds more than data.
    """
    try:
        if filename.endswith(".pkl"):
            with open(filename, "rb") as file:
                return _ArrayUnpickler(file, encoding="latin1").load()
        return torch.load(filename, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{filename} cannot be read ({error.strerror or error}); correct the path.") from error
    except Exception as error:  # A damaged file can raise nearly anything.
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if reason.startswith("Weights only load failed"):  # What torch says then is advice to load it nevertheless.
            reason = "it is no torch file, or holds more than data"
        raise InputError(f"{filename} cannot be read as a checkpoint ({reason}); {_ADVICE}.") from error


def read_weights(filename: str) -> dict[str, Any]:
    """Read a checkpoint, as :func:`read_file` does.

    Returns:
        a dict with at least "model", tensors by name. A file of weights alone becomes that.

    Raises:
        InputError: the file is not a checkpoint, holds more than data, or has Caffe2's or torchvision's names.
    """
    loaded = read_file(filename)
    if not isinstance(loaded, dict):
        raise InputError(f"{filename} is not a checkpoint, it holds a {type(loaded).__name__}; {_ADVICE}.")
    if not isinstance(loaded.get("model"), dict):
        if "blobs" in loaded or any("_branch2" in str(name) for name in loaded):
            raise InputError(f"{filename} has Caffe2's parameter names; take a torchvision model of the zoo.")
        if "layer1.0.conv1.weight" in loaded:
            raise InputError(
                f"{filename} has torchvision's parameter names; turn it into ours with "
                "tools/convert_torchvision_weights.py."
            )
        loaded = {"model": {} if "model" in loaded else loaded}
    weights = {
        name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in loaded["model"].items()
    }
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f'{filename} is not a checkpoint, it holds no "model" weights; {_ADVICE}.')
    return {**loaded, "model": weights}


def resnet_depth(weights: dict[str, Tensor]) -> int | None:
    """The layers of the plain ResNet whose weights these are, by Detectron2's names; None if they are of none."""
    stages = [{name.split(".")[1] for name in weights if name.startswith(f"res{stage}.")} for stage in (2, 3, 4, 5)]
    return RESNET_DEPTHS.get(("res2.0.conv3.weight" in weights, tuple(map(len, stages))))


def with_names_of(model: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that a model has for them.

    Weights of which one has its name in the model, or stands below ``backbone``, keep their names; of these, those of
    early MaskFormer checkpoints that lack ``pixel_decoder`` get it. All others (ImageNet backbones) go where a name in
    the model ends in ".<name of the weight>", by the longest such ending: ``stem.conv1.weight`` becomes
    ``backbone.stem.conv1.weight``. What fits nowhere, or has another shape, keeps its name. Detectron2 matches alike;
    it is done here so that the same file loads the same way on both hosts, whatever flags it carries.

    Args:
        model: the model's state.
        weights: from :func:`read_weights`.

    Raises:
        InputError: one weight would go to two parameters.
    """
    # Counters of batch norms say nothing to a model whose norms are frozen.
    weights = {name: value for name, value in weights.items() if name in model or "num_batches_tracked" not in name}
    if any(name.startswith(("backbone.", "module.")) or name in model for name in weights):
        head = "sem_seg_head."
        old = {name: name.replace(head, f"{head}pixel_decoder.", 1) for name in weights if name.startswith(head)}
        renamed = {name: new for name, new in old.items() if name not in model and new in model}
        return {renamed.get(name, name): value for name, value in weights.items()}
    matched: dict[str, str] = {}  # name of the weight -> name in the model
    for name, parameter in sorted(model.items()):
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        source = next((suffix for suffix in suffixes if suffix in weights), None)
        if source is None or weights[source].shape != parameter.shape:
            continue
        if source in matched:
            raise InputError(f"The checkpoint's {source} fits {matched[source]} and {name}, so it can't be loaded.")
        matched[source] = name
    return {matched.get(name, name): value for name, value in weights.items()}

"""Lookup of configurations and models that come with the package, and of weights that come with other packages."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# In a wheel they are inside the package; in a checkout (also with pip install -e) beside it.
_CONFIGS, _MODELS = (
    inside if (inside := _PACKAGE / name).is_dir() else _PACKAGE.parent / name for name in ("configs", "models")
)


def find_config_file(path: str) -> str:
    """Return ``path`` or, if there is no such file, the package's file of the same name below ``configs/``.

    Without either it returns ``path``, and opening it fails.
    """
    first, *rest = Path(path).parts or ("",)
    if first == "configs" and not os.path.isfile(path):
        own = _CONFIGS.joinpath(*rest)
        if own.is_file():
            return str(own)
    return path


def model_names() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(file.stem for file in _MODELS.glob("*.pth"))


def find_model_file(path: str) -> str:
    """Return ``path`` or, if it is no file but one of :func:`model_names`, the file of that model."""
    return str(_MODELS / f"{path}.pth") if path in model_names() and not os.path.isfile(path) else path


def find_weights_file(path: str) -> str:
    """Return ``path`` or, if there is no such file, the file that PACKAGE/FOLDER/FILE names in an installed package.

    Without either it returns ``path``, and opening it fails.
    """
    package, *rest = Path(path).parts or ("",)
    if package.isidentifier() and rest and not os.path.exists(path):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if os.path.isfile(inside := os.path.join(folder, *rest)):
                return inside
    return path

"""Lookup of the configuration files that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# In a wheel they are inside the package; in a checkout (also with pip install -e) beside it.
_CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


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

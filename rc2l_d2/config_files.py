"""The configuration files that come with the package: found wherever it is installed."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# They are installed into the package; in a checkout, and where that is installed with -e, they stand beside it.
_CONFIGS = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), _PACKAGE / "configs"
)


def find_config_file(path: str) -> str:
    """``path`` where there is such a file; else, of ``configs/...``, the one of this name that comes with the package.

    Where there is neither, it is ``path`` again: whoever opens it can say best what is missing.
    """
    first, *rest = Path(path).parts or ("",)
    if first == "configs" and not os.path.isfile(path):
        own = _CONFIGS.joinpath(*rest)
        if own.is_file():
            return str(own)
    return path

"""RC2L: region-level contrastive and consistency learning for semi-supervised semantic segmentation.

Importing this package registers its architectures and its built-in data sets with the host (Detectron2 where it is
installed, the embedded one elsewhere).
"""

from typing import Any

from . import data, modeling
from .config import add_rc2l_config

__version__ = "0.1.0"
__all__ = ["add_rc2l_config", "data", "load_segmenter", "modeling"]


def __getattr__(name: str) -> Any:
    if name == "load_segmenter":  # Imported at first use: training needs nothing of it.
        from .prediction import load_segmenter

        return load_segmenter
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

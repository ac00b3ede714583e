"""RC2L: region-level contrastive and consistency learning for semi-supervised semantic segmentation.

Importing this package registers its architectures and its built-in data sets with the host (Detectron2 where it is
installed, the embedded one elsewhere).
"""

from . import data, modeling
from .config import add_rc2l_config

__version__ = "0.1.0"
__all__ = ["add_rc2l_config", "data", "modeling"]

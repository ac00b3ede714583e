"""What region-level learning is measured against: the same teacher and views, losses on pixels."""

from .losses import pixel_contrastive

__all__ = ["pixel_contrastive"]

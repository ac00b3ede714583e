"""Showing and judging what a model does. (The mIoU itself comes from the host's SemSegEvaluator.)"""

from .overlays import draw_comparison

__all__ = ["draw_comparison"]

"""Pictures and videos in, what a trained model sees in them out."""

from .segmenter import Segmentation, Segmenter, load_checkpoint, load_weights

__all__ = ["Segmentation", "Segmenter", "load_checkpoint", "load_weights"]

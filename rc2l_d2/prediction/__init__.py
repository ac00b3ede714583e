"""Segmentation of images and videos by a trained model."""

from .segmenter import Segmentation, Segmenter, load_checkpoint, load_segmenter

__all__ = ["Segmentation", "Segmenter", "load_checkpoint", "load_segmenter"]

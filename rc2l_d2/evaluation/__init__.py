"""Prediction on test images, metrics, and drawings of class maps."""

from .evaluator import SemanticEvaluator
from .inference import Predictor, check_test_settings, predict_images
from .metrics import confusion_matrix, semantic_metrics
from .overlays import class_colors, classes_in, draw_legend, draw_panels, overlay

__all__ = [
    "Predictor", "SemanticEvaluator", "check_test_settings", "class_colors", "classes_in", "confusion_matrix",
    "draw_legend", "draw_panels", "overlay", "predict_images", "semantic_metrics",
]  # fmt: skip

"""Prediction on test images, metrics, and drawings of class maps."""

from .evaluator import SemanticEvaluator
from .inference import ImagePredictions, Predictor, check_test_settings, predict_scores
from .metrics import confusion_matrix, semantic_metrics
from .overlays import class_colors, classes_in, draw_legend, draw_panels, overlay

__all__ = [
    "ImagePredictions",
    "Predictor",
    "SemanticEvaluator",
    "check_test_settings",
    "class_colors",
    "classes_in",
    "confusion_matrix",
    "draw_legend",
    "draw_panels",
    "overlay",
    "predict_scores",
    "semantic_metrics",
]

"""Judging and showing what a model does: how it is asked, what its answers are worth, pictures of them."""

from .evaluator import SemanticEvaluator
from .inference import Predictor, check_test_settings
from .metrics import confusion_matrix, semantic_metrics
from .overlays import (
    Answers,
    ask,
    class_colors,
    classes_in,
    draw_comparison,
    draw_legend,
    draw_panels,
    overlay,
)

__all__ = [
    "Answers",
    "Predictor",
    "SemanticEvaluator",
    "ask",
    "check_test_settings",
    "class_colors",
    "classes_in",
    "confusion_matrix",
    "draw_comparison",
    "draw_legend",
    "draw_panels",
    "overlay",
    "semantic_metrics",
]

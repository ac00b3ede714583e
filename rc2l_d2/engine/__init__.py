"""Training: the semi-supervised step, the teacher, checkpoints, and the trainer that puts them together."""

from .checkpoint import RegionCheckpointer
from .dry_run import describe_plan
from .ema import EMAHook, EMATeacher
from .model_file import load_model_file
from .preemption import Interrupted, signals_to_children
from .progress import PROGRESS_LOGGER
from .setup import keep_freed_memory, load_config
from .solver import build_lr_scheduler, build_optimizer, learning_rate
from .step import SemiSupervisedTrainer
from .step_log import NonFiniteError
from .trainer import RC2LTrainer

__all__ = [
    "PROGRESS_LOGGER",
    "EMAHook",
    "EMATeacher",
    "Interrupted",
    "NonFiniteError",
    "RC2LTrainer",
    "RegionCheckpointer",
    "SemiSupervisedTrainer",
    "build_lr_scheduler",
    "build_optimizer",
    "describe_plan",
    "keep_freed_memory",
    "learning_rate",
    "load_config",
    "load_model_file",
    "signals_to_children",
]

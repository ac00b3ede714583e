"""The trainer behind train_net.py: Detectron2's DefaultTrainer, with a teacher and two streams of images."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Callable, Sequence

from torch import nn

from ..data import (
    build_test_loader,
    build_train_loader,
    check_batch_sizes,
    check_test_data,
    check_training_data,
    dead_worker,
    load_dataset,
    stream_entries,
)
from ..errors import InputError
from ..evaluation import Predictor, SemanticEvaluator
from ..host import (
    META_ARCH_REGISTRY,
    CfgNode,
    DefaultTrainer,
    JSONWriter,
    SimpleTrainer,
    TensorboardXWriter,
    comm,
    hooks,
    inference_on_dataset,
    print_csv_format,
)
from ..modeling import RegionSegmentor
from .best import BestResults, BestResultsHook
from .checkpoint import RegionCheckpointer, unwrap
from .data_parallel import data_parallel
from .ema import EMAHook, EMATeacher
from .learned_images import LearnedImages
from .model_file import write_model_file
from .preemption import Interrupted, StopOnSignal
from .progress import ProgressLine
from .region_classes import RegionClassHook, check_whole_images, region_classifier
from .setup import build_model_or_explain, check_torchvision_settings, check_values, load_backbone
from .solver import build_lr_scheduler, build_optimizer
from .step import SemiSupervisedTrainer
from .step_log import LOG_PERIOD

logger = logging.getLogger(__name__)


def _is_unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (isinstance(error, InputError | Interrupted) or dead_worker(error))


class EvaluationHook(hooks.EvalHook):
    """Detectron2's hook, which also runs an evaluation that an interruption prevented, after the resume.

    ``best`` holds the iteration of the last evaluation; ``writers`` write the results of a late one at once.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict], best: BestResults, writers: Sequence):
        super().__init__(eval_period, eval_function)
        self._best = best
        self._writers = writers

    def before_train(self) -> None:
        start = self.trainer.start_iter
        due = self._period > 0 and start > 0 and start % self._period == 0 and start < self.trainer.max_iter
        if due and self._best.evaluated < start - 1:
            # Its results are logged for the iteration after which it was due.
            self.trainer.iter = self.trainer.storage.iter = start - 1
            self._do_eval()
            for writer in self._writers:
                writer.write()
            self.trainer.iter = self.trainer.storage.iter = start

    def after_train(self) -> None:
        # Detectron2 compares with one iteration less, and would evaluate a run that was interrupted in its last one.
        if self.trainer.iter >= self.trainer.max_iter:
            # Without a step, of a run that was killed after its last one, the host's loop counts one more.
            self.trainer.iter = self.trainer.storage.iter = max(self.trainer.max_iter, self.trainer.start_iter)
            self._do_eval()


class RC2LTrainer(DefaultTrainer):
    """Trains RC2L, its baselines, or a RegionSegmentor on labelled images alone, and evaluates student and teacher.

    Attributes:
        teacher: the :class:`EMATeacher`.
        best: the :class:`BestResults` of this run; ``last_results`` are those of the last evaluation.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's constructor builds DistributedDataParallel with device ids, which fails on CPU.
        super(DefaultTrainer, self).__init__()
        check_values(cfg)  # Another script may have made it.
        student = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, student)
        self.teacher = EMATeacher.from_config(cfg, student)
        # resume_or_load builds the loader: evaluation alone needs no training data.
        self._trainer = SemiSupervisedTrainer(cfg, data_parallel(cfg, student), None, optimizer, self.teacher)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.best = BestResults()
        self.learned = LearnedImages()
        self.checkpointer = RegionCheckpointer(
            student, cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINT_KEEP,
            data_sets=(*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg=cfg,
            gather=getattr(optimizer, "gather_state", None),
            trainer=weakref.proxy(self), ema=self.teacher, best=self.best, learned=self.learned,
        )  # fmt: skip
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.last_results: dict = {}
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def seed(self) -> int:
        """SEED, or where that is negative the random seed of this run or of the one that it resumes."""
        return self._trainer.seed

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from OUTPUT_DIR's last checkpoint, or start from the weights of MODEL.WEIGHTS."""
        rates = list(self.scheduler.base_lrs)
        if not (resume and self.checkpointer.has_checkpoint()):
            load_backbone(self.cfg, unwrap(self.model))
        super().resume_or_load(resume=resume)
        starts = comm.all_gather(self.start_iter)
        if len({*starts}) > 1:
            raise InputError(
                f"The ranks found checkpoints of different iterations in OUTPUT_DIR {self.cfg.OUTPUT_DIR} "
                f"({', '.join(map(str, starts))}); give all machines one folder on a common file system."
            )
        if self.start_iter > self.max_iter:
            raise InputError(
                f"OUTPUT_DIR {self.cfg.OUTPUT_DIR} holds a run of {self.start_iter} iterations, more than "
                f"SOLVER.MAX_ITER {self.max_iter}; give --resume at least as many, or another OUTPUT_DIR."
            )
        self.learned.add(stream_entries(self.cfg, "TRAIN"), resumed=self.start_iter > 0)
        self._warn_of_learned_images()
        if self.checkpointer.torchvision:
            check_torchvision_settings(self.cfg)
        classifier = region_classifier(unwrap(self.model))
        if classifier is not None and self.start_iter == 0:
            classifier.fitted.zero_()  # The classes of another run are no starting point.
        if self.scheduler.base_lrs != rates:
            logger.warning(
                "The run resumes with the learning rate of its checkpoint, %g, not of the configuration, %g: set "
                "SOLVER.BASE_LR and SOLVER.IMS_PER_BATCH as before, or start a new run.",
                *next(pair for pair in zip(self.scheduler.base_lrs, rates, strict=False) if pair[0] != pair[1]),
            )  # fmt: skip
        if self.teacher.updates == 0:
            self.teacher.reset(unwrap(self.model))
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        use_unlabeled, ranks = self.uses_unlabeled(cfg), comm.get_world_size()
        self._trainer.data_loader = self.build_train_loader(cfg, self.start_iter)
        burn_in, batch = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, cfg.SOLVER.IMS_PER_BATCH_UNLABELED
        if use_unlabeled and burn_in >= self.max_iter:
            logger.warning(
                "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS is %d and SOLVER.MAX_ITER %d: this run ends before it uses an "
                "unlabelled image.", burn_in, self.max_iter,
            )  # fmt: skip
        recipe = self._trainer.student.recipe if use_unlabeled else {}
        given, published = (
            ", ".join(f"{key} {values[key]}" for key in recipe) for values in (cfg.MODEL.SEMI_SUPERVISED, recipe)
        )
        if given != published:
            logger.warning(
                "This is not %s's whole recipe: MODEL.SEMI_SUPERVISED has %s, the recipe %s.",
                cfg.MODEL.META_ARCHITECTURE, given, published,
            )  # fmt: skip
        if use_unlabeled and batch // ranks < 2:
            logger.warning(
                "SOLVER.IMS_PER_BATCH_UNLABELED is %d for %d rank(s): an image without a neighbour in its batch is not "
                "mixed.", batch, ranks,
            )  # fmt: skip

    def train(self) -> None:
        """Train to the end, with an evaluation every TEST.EVAL_PERIOD, then write the teacher's :mod:`.model_file`."""
        # The host's loop logs every exception with a traceback; a user's mistake gets one sentence instead.
        loop = logging.getLogger(SimpleTrainer.__module__)
        loop.addFilter(_is_unexpected)
        if self.start_iter >= self.max_iter:
            # A run that was killed after the numbered checkpoint of its last iteration lacks this one, or it is
            # damaged. Rank 0 decides: others may not see its files.
            loaded = comm.all_gather(os.path.basename(self.checkpointer.get_checkpoint_file()))[0]
            if loaded != "model_final.pth":
                self.checkpointer.save("model_final", iteration=self.iter)
        try:
            super().train()
        finally:
            loop.removeFilter(_is_unexpected)
        if comm.is_main_process():
            path = os.path.join(self.cfg.OUTPUT_DIR, "teacher_final.pth")
            write_model_file(path, self.cfg, self.teacher.model, self.max_iter, learned=self.learned.state_dict())

    def load_for_evaluation(self, resume: bool = False) -> None:
        """Load student and teacher from MODEL.WEIGHTS, or from OUTPUT_DIR's last checkpoint; no training state.

        Raises:
            InputError: there are no weights, or they do not fit.
        """
        path = self.cfg.MODEL.WEIGHTS
        if resume and self.checkpointer.has_checkpoint():
            path = self.checkpointer.get_checkpoint_file()
        if not path:
            raise InputError("There are no weights to evaluate; give MODEL.WEIGHTS the path of a checkpoint.")
        rest = self.checkpointer.load(path, checkpointables=["ema", "learned"])
        self._warn_of_learned_images()
        if self.teacher.updates == 0:
            self.teacher.reset(unwrap(self.model))
        logger.info("Evaluating %s (iteration %s)", path, rest.get("iteration", "unknown"))

    def _warn_of_learned_images(self) -> None:
        for name in self.cfg.DATASETS.TEST:
            self.learned.warn_of_test(name, load_dataset(name, "none", "DATASETS.TEST"))

    def build_hooks(self) -> list:
        """Return Detectron2's hooks in their order, with the teacher's before the checkpointer's."""
        main, period, solver = comm.is_main_process(), self.cfg.TEST.EVAL_PERIOD, self.cfg.SOLVER
        unlabeled = solver.IMS_PER_BATCH_UNLABELED if self.uses_unlabeled(self.cfg) else 0
        burn_in, writers = self.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, self.build_writers() if main else []
        has_classifier = region_classifier(self.teacher.model) is not None
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            EMAHook(self.teacher, unwrap(self.model)),
            RegionClassHook(self.cfg, self.teacher.model, unwrap(self.model)) if has_classifier else None,
            hooks.PeriodicCheckpointer(self.checkpointer, solver.CHECKPOINT_PERIOD),
            StopOnSignal(self.checkpointer, self._trainer.log.write),
            EvaluationHook(period, self.evaluate_and_compare, self.best, writers),
            ProgressLine(solver.IMS_PER_BATCH, unlabeled, burn_in) if main else None,
            # Also after each evaluation: a run that ends before the next period would lose its results.
            hooks.PeriodicWriter(writers, math.gcd(LOG_PERIOD, period)) if main else None,
            BestResultsHook(self.best, self.checkpointer) if main else None,
        ]

    def build_writers(self) -> list:
        """Return writers of ``metrics.json`` and TensorBoard files in OUTPUT_DIR; :class:`ProgressLine` logs."""
        os.makedirs(self.cfg.OUTPUT_DIR, exist_ok=True)
        return [JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")), TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def evaluate(self) -> dict:
        """Evaluate student (``sem_seg``) and teacher (``sem_seg_teacher``) on DATASETS.TEST.

        A file of weights without a teacher is evaluated once.
        """
        teacher = self.teacher.model if self.teacher.updates else None
        self.last_results = self.test(self.cfg, unwrap(self.model), teacher)
        return self.last_results

    def evaluate_and_compare(self) -> dict:
        """Call :meth:`evaluate` within a training run, and log the best mIoU beside the last."""
        results, names = self.evaluate(), set(self.cfg.DATASETS.TEST)
        self.best.update({names.pop(): results} if len(names) == 1 else results, self.iter)
        return results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> RegionSegmentor:
        model = build_model_or_explain(cfg)
        logger.info("%s with %.1f M parameters", type(model).__name__, sum(p.numel() for p in model.parameters()) / 1e6)
        return model

    # Override points of a Detectron2 trainer.
    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_test_loader = staticmethod(build_test_loader)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int = 0):
        return build_train_loader(cfg, cls.uses_unlabeled(cfg), start_iter)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> SemanticEvaluator:
        return SemanticEvaluator(dataset_name)

    @classmethod
    def uses_unlabeled(cls, cfg: CfgNode) -> bool:
        """Return whether the architecture of ``cfg`` uses unlabelled images."""
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).uses_unlabeled

    @classmethod
    def check_data(cls, cfg: CfgNode, eval_only: bool = False) -> None:
        """Check the data before training (or evaluation alone); see :func:`rc2l_d2.data.check_training_data`."""
        check_whole_images(cfg, eval_only)
        if eval_only:
            check_test_data(cfg)
        else:
            check_batch_sizes(cfg, cls.uses_unlabeled(cfg), comm.get_world_size())
            check_training_data(cfg, use_unlabeled=cls.uses_unlabeled(cfg))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, teacher: nn.Module | None = None) -> dict:
        """Evaluate ``model`` and, if given, ``teacher`` on every data set of DATASETS.TEST.

        Returns:
            ``{"sem_seg": {...}, "sem_seg_teacher": {...}}``, or data set -> such a dictionary if there are several;
            empty dictionaries on other ranks than the main rank.
        """
        results: dict[str, dict] = {}
        for dataset_name in cfg.DATASETS.TEST:
            results[dataset_name] = {}
            for task, evaluated in (("sem_seg", model), ("sem_seg_teacher", teacher)):
                if evaluated is None:
                    continue
                loader, evaluator = cls.build_test_loader(cfg, dataset_name), cls.build_evaluator(cfg, dataset_name)
                result = inference_on_dataset(Predictor(cfg, evaluated), loader, evaluator)
                if comm.is_main_process():
                    results[dataset_name][task] = result["sem_seg"]
            if comm.is_main_process():
                logger.info("Evaluation results for %s in csv format:", dataset_name)
                print_csv_format(results[dataset_name])
        return next(iter(results.values())) if len(results) == 1 else results

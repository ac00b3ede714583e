"""One step of semi-supervised training: the whole method on one page."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data.datasets.description import voc_color_map
from ..errors import InputError
from ..host import CfgNode, MetadataCatalog, SimpleTrainer, comm
from ..regions import (
    PseudoRegions,
    Regions,
    TeacherView,
    agreement_counts,
    classmix_mask,
    coverage_counts,
    cutmix_mask,
    label_counts,
    mix,
    pseudo_regions,
    quality_counts,
    select,
)
from .batch_statistics import batch_statistics, set_batch_statistics
from .checkpoint import unwrap
from .ema import EMATeacher
from .step_log import LOG_PERIOD, StepLog
from .training_images import TrainingPictures


class SemiSupervisedTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with two streams, a teacher and mixed precision.

    A step takes labelled and unlabelled images. After burn-in the teacher looks at the weak views; strong views and the
    teacher's maps are mixed alike and cut into pseudo regions; the student sees labelled images and mixed strong views
    in one forward pass. The hook of :mod:`.ema` then moves the teacher.
    """

    def __init__(self, cfg: CfgNode, model: torch.nn.Module, data_loader, optimizer, teacher: EMATeacher):
        """
        Args:
            cfg: SEED, SOLVER.AMP, SOLVER.CLIP_GRADIENTS, MODEL.RC2L and VIS_PERIOD are read.
            model: the student, possibly wrapped for distributed training.
            data_loader: yields (labelled samples, unlabelled samples); may come later, before the first step.
            optimizer: over the student's parameters.
            teacher: gives pseudo regions; not updated here.

        Raises:
            InputError: a key has a value that is not known.
        """
        super().__init__(model, data_loader, optimizer)
        self.teacher = teacher
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else {}
        self.drawn_seed = cfg.SEED < 0
        self.seed = comm.shared_random_seed() if self.drawn_seed else cfg.SEED
        self.method = cfg.MODEL.SEMI_SUPERVISED
        self.max_iter, self.checkpoint_period = cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if clip.ENABLED and clip.CLIP_TYPE != "full_model":
            raise InputError(
                f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{clip.CLIP_TYPE}", which is not known here; say "full_model".'
            )
        self.clip_norm = clip.CLIP_VALUE if clip.ENABLED else None
        self.device = next(model.parameters()).device
        # float16 with a scaled loss on GPUs; bfloat16, which needs no scaling, on CPUs.
        self.amp_enabled = cfg.SOLVER.AMP.ENABLED
        self.amp_dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        scaled = self.amp_enabled and self.amp_dtype == torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        # A scaler leaves out steps with infinite gradients now and then, to find its scale.
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        names = metadata.get("stuff_classes") or [str(c) for c in range(classes)]
        self.log = StepLog(names, bears_infinite_gradients=scaled, max_bad_steps=cfg.SOLVER.MAX_BAD_STEPS)
        colors = metadata.get("stuff_colors") or voc_color_map(classes)
        self.pictures = TrainingPictures(cfg.VIS_PERIOD, colors, cfg.INPUT.FORMAT)

    def run_step(self) -> None:
        start = time.perf_counter()
        labeled, unlabeled = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        # Dropout and sampled positions: drawn for this step alone, so that a resumed run draws what it would have.
        torch.manual_seed(self.seeds()[1])
        statistics = batch_statistics(self.model)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_enabled):
            if unlabeled and self.iter >= self.method.BURN_IN_ITERS:
                strong, pseudo, view = self.teach(unlabeled)
                look = partial(self.look, unlabeled, strong, pseudo)
                losses = self.model(labeled, strong, pseudo, view, self.ramp(), look)
            else:
                losses = self.model(labeled)

        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        norm = self.update()
        # What is not finite in the gradient may have been so in the forward pass.
        set_batch_statistics(self.model, torch.where(norm.isfinite(), batch_statistics(self.model), statistics))
        files = [sample["file_name"] for sample in [*labeled, *unlabeled]]
        self.log.add(self.iter, losses, norm, data_time, files)
        done = self.iter + 1
        # Also before each checkpoint: none may hold what a loss that is no number has done.
        if done % LOG_PERIOD == 0 or done % self.checkpoint_period == 0 or done == self.max_iter:
            self.log.write()

    def update(self) -> Tensor:
        """Clip the gradient and move the weights; not where the gradient is not finite, on any process.

        Returns:
            the gradient's norm before clipping.
        """
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
        if not self.grad_scaler.is_enabled():  # It says so itself, of its own scaled gradients.
            self.optimizer.found_inf = (~norm.isfinite()).float()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        return norm

    def ramp(self) -> float:
        """Weight of the unlabelled losses at this iteration: linear from 0 to 1 over RAMP_UP_ITERS after burn-in."""
        done = self.iter + 1 - self.method.BURN_IN_ITERS
        return min(1.0, done / max(1, self.method.RAMP_UP_ITERS))

    @torch.no_grad()
    def teach(self, unlabeled: list[dict]) -> tuple[Tensor, PseudoRegions, TeacherView]:
        """Mixed strong views (B, 3, H, W), normalised, the teacher's pseudo regions of them, and its mixed view."""
        student = unwrap(self.model)
        strong = student.preprocess([sample["strong"] for sample in unlabeled]).tensor

        view = self.teacher.look(unlabeled)
        self.teacher.observe(view)
        view = select(view, self.teacher.thresholds(student.selection), student.selection.unit)
        if self.method.MEASURE_PSEUDO_LABELS:
            self.measure(pseudo_regions(view, self.method.MIN_REGION_AREA), unlabeled)
        strong, view = self.mixed(strong, view)
        pseudo = pseudo_regions(view, self.method.MIN_REGION_AREA)
        self.log.telemetry.add(coverage_counts(view, pseudo))
        return strong, pseudo, view

    @torch.no_grad()
    def look(
        self,
        unlabeled: list[dict],
        strong: Tensor,
        pseudo: PseudoRegions,
        labels: Tensor,
        regions: Regions,
        semantic_map: Tensor,
    ) -> None:
        """Note for log and pictures what went in and what came out of a step; arguments as of the student's forward."""
        self.log.telemetry.add(agreement_counts(semantic_map, pseudo))
        self.log.telemetry.add(label_counts(_on_mask_grid(labels, pseudo), semantic_map.shape[1]))
        if self.pictures.due(self.iter):
            student = unwrap(self.model)
            mixed = strong * student.pixel_std + student.pixel_mean
            self.pictures.draw([sample["image"] for sample in unlabeled], mixed, pseudo, regions)

    def measure(self, pseudo: PseudoRegions, unlabeled: list[dict]) -> None:
        """Compare pseudo labels, before mixing, with the labels that the images have on disk; for the log alone."""
        labels = unwrap(self.model).preprocess_labels([sample["sem_seg"] for sample in unlabeled])
        self.log.telemetry.add(quality_counts(pseudo, _on_mask_grid(labels, pseudo)))

    def mixed(self, strong: Tensor, view: TeacherView) -> tuple[Tensor, TeacherView]:
        """Strong views and teacher's view mixed by MODEL.SEMI_SUPERVISED.MIX, with the same random masks."""
        if self.method.MIX == "none":
            return strong, view
        batch, num_classes, *grid = view.probabilities.shape
        if self.method.MIX == "cutmix":
            mask = cutmix_mask(self.uniform(batch, 4), tuple(grid))
        else:
            mask = classmix_mask(view, self.uniform(batch, num_classes))
        return mix(strong, view, mask)

    def uniform(self, *shape: int) -> Tensor:
        """Random numbers from 0 to 1 on the device, a function of the seed, the process and the iteration.

        Not torch's global generator: another method with the same seed, which draws more or less of it, mixes alike.
        """
        generator = torch.Generator().manual_seed(self.seeds()[0])
        return torch.rand(shape, generator=generator).to(self.device, non_blocking=True)

    def seeds(self) -> tuple[int, int]:
        """Of this iteration on this process: for mixing, and for whatever draws from torch's global generator."""
        mixing, rest = np.random.SeedSequence([self.seed, comm.get_rank(), self.iter]).generate_state(2).tolist()
        return mixing, rest

    def state_dict(self) -> dict:
        ours = {"grad_scaler": self.grad_scaler.state_dict(), "seed": self.seed, "bad_steps": self.log.bad_steps}
        return {**super().state_dict(), **ours}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.log.bad_steps = state_dict["bad_steps"]
        if self.drawn_seed:
            self.seed = state_dict["seed"]


def _on_mask_grid(labels: Tensor, pseudo: PseudoRegions) -> Tensor:
    """(B, h, w) of labels (B, H, W): the pixel next to the middle of each position."""
    stride = labels.shape[-1] // pseudo.masks.shape[-1]
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]

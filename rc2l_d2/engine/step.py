"""One step of semi-supervised training: the whole method on one page.

The commented lines of :meth:`SemiSupervisedTrainer.run_step` are rows of docs/method.md; rc2l_d2/regions has the tensor
code.
"""

from __future__ import annotations

import logging
import time
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..host import CfgNode, SimpleTrainer, comm
from ..modeling import SemiSupervisedSegmentor
from ..regions import (
    PseudoRegions,
    Regions,
    agreement_counts,
    coverage_counts,
    label_counts,
    quality_counts,
)
from .batch_statistics import batch_statistics, set_batch_statistics
from .checkpoint import unwrap
from .ema import EMATeacher
from .precision import describe_precision, mixed_precision_dtype
from .step_log import LOG_PERIOD, StepLog
from .student_views import StudentViews, on_mask_grid
from .training_images import TrainingImages

logger = logging.getLogger(__name__)
# Settings of the optimizer that a resumed run takes from its configuration, not from the checkpoint.
_CONFIGURED = ("weight_decay", "momentum", "nesterov")


class SemiSupervisedTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with two streams, a teacher and mixed precision.

    The hook of :mod:`.ema` updates the teacher after each step.

    Attributes:
        teacher: the :class:`EMATeacher`, with the :class:`rc2l_d2.regions.PseudoLabeler`.
        seed: SEED, or a random one if SEED is negative.
        log: the :class:`StepLog`.
    """

    def __init__(self, cfg: CfgNode, model: torch.nn.Module, data_loader, optimizer, teacher: EMATeacher):
        """
        Args:
            cfg: SEED, SOLVER, MODEL.SEMI_SUPERVISED and VIS_PERIOD are read.
            model: the student, possibly wrapped for distributed training.
            data_loader: yields (labelled samples, unlabelled samples); may be set later, before the first step.
            optimizer: over the student's parameters.
            teacher: predicts pseudo labels; not updated here.
        """
        super().__init__(model, data_loader, optimizer)
        self.student = cast(SemiSupervisedSegmentor, unwrap(model))
        self.teacher = teacher
        self.settings = cfg.MODEL.SEMI_SUPERVISED
        self.views = StudentViews(self.settings, self.student, teacher)
        self.random_seed = cfg.SEED < 0
        self.seed = comm.shared_random_seed() if self.random_seed else cfg.SEED
        self.max_iter, self.checkpoint_period = cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD
        clip = cfg.SOLVER.CLIP_GRADIENTS
        self.clip_norm, self.norm_type = clip.CLIP_VALUE if clip.ENABLED else None, float(clip.NORM_TYPE)
        self.device = self.student.device
        self.amp_dtype = mixed_precision_dtype(cfg)
        logger.info("Precision: %s.", describe_precision(cfg))
        scaled = self.amp_dtype == torch.float16  # float16 has too few small numbers for gradients.
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.images = TrainingImages(cfg)
        # A gradient scaler now and then skips a step with infinite gradients, to find its scale.
        self.log = StepLog(self.images.class_names, scaled, cfg.SOLVER.MAX_BAD_STEPS)

    def run_step(self) -> None:
        """Run one iteration: L = L_sup + lambda * ramp * (RMC, RFC, RCC and SMC, weighted)."""
        labeled, unlabeled, data_time = self.next_batch()
        # Dropout and sampled pixels depend on seed, rank and iteration alone, so that a resumed run repeats them.
        torch.manual_seed(self.seeds()[1])
        statistics = batch_statistics(self.model)
        student, labeler = self.student, self.teacher.labeler
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            images = student.preprocess([sample["image"] for sample in labeled]).tensor
            labels = student.preprocess_labels([sample["sem_seg"] for sample in labeled])
            n = len(labels)
            if labeler is None or not unlabeled or self.iter < self.settings.BURN_IN_ITERS:
                regions = self.model(images)
                losses = student.supervised_losses(regions, labels)
            else:
                teacher = self.teacher.predict(unlabeled)  # s', F', y and v of the weak views
                labeler.observe(teacher)  # kappa
                teacher = labeler.select(teacher)  # tau and the valid pixels
                self.count(labeler.regions(teacher), unlabeled)
                strong, teacher, dropped = self.views(unlabeled, teacher, images, labels, self.iter, self.seeds()[0])
                pseudo = labeler.regions(teacher)  # M_c, r'_c and omega_c

                # The one student forward.
                regions = self.model(torch.cat([images, strong]), supervised=n, dropped=dropped)
                labeled_regions, unlabeled_regions = regions.images(0, n), regions.images(n)
                semantic_map = student.semantic_map(unlabeled_regions)  # s
                losses = student.supervised_losses(labeled_regions, labels)
                unlabeled_losses = student.unlabeled_losses(unlabeled_regions, semantic_map, pseudo)  # RMC, ...
                losses = self.weighted_losses(losses, unlabeled_losses)  # lambda, ramp and weights
                self.observe(labels, unlabeled, strong, unlabeled_regions, semantic_map, pseudo)
        gradient_norm = self.optimize(sum(losses.values(), torch.zeros((), device=self.device)))

        # A forward pass that leads to a non-finite gradient may also have made the running statistics non-finite.
        finite = gradient_norm.isfinite()
        set_batch_statistics(self.model, torch.where(finite, batch_statistics(self.model), statistics))
        self.log.add(self.iter, losses, gradient_norm, data_time, [s["file_name"] for s in [*labeled, *unlabeled]])
        done = self.iter + 1
        # Also before each checkpoint, because ``write`` raises on a non-finite loss, which no checkpoint may contain.
        if done % LOG_PERIOD == 0 or done % self.checkpoint_period == 0 or done == self.max_iter:
            self.log.write()

    def next_batch(self) -> tuple[list[dict], list[dict], float]:
        """Return labelled samples, unlabelled samples and the seconds that loading took."""
        start = time.perf_counter()
        labeled, unlabeled = next(self._data_loader_iter)
        return labeled, unlabeled, time.perf_counter() - start

    def ramp(self) -> float:
        """Return the ramp, which rises linearly from 0 to 1 over RAMP_UP_ITERS after burn-in (our reading)."""
        done = self.iter + 1 - self.settings.BURN_IN_ITERS
        return min(1.0, done / max(1, self.settings.RAMP_UP_ITERS))

    def weighted_losses(self, supervised: dict[str, Tensor], unlabeled: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of L = L_sup + ramp * lambda * sum_i w_i L_i, except those of weight zero."""
        ramp, loss_weight, weights = self.ramp(), self.student.loss_weight, self.student.loss_weights
        return supervised | {
            name: ramp * (loss_weight * weights[name] * loss)
            for name, loss in unlabeled.items()
            if loss_weight * weights[name] > 0
        }

    def optimize(self, loss: Tensor) -> Tensor:
        """Backpropagate, clip the gradient and update the weights, unless the gradient is non-finite.

        Returns:
            The gradient's norm before clipping, the same on all ranks.
        """
        self.optimizer.zero_grad()
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, self.norm_type)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
        if not self.grad_scaler.is_enabled():  # An enabled scaler sets ``found_inf`` itself.
            self.optimizer.found_inf = (~norm.isfinite()).float()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        return norm

    def count(self, pseudo: PseudoRegions, unlabeled: list[dict]) -> None:
        """Count pseudo labels, and correct ones if they are measured, before mixing, only for the log."""
        self.log.telemetry.add(coverage_counts(pseudo))
        if self.settings.MEASURE_PSEUDO_LABELS:
            labels = self.student.preprocess_labels([sample["sem_seg"] for sample in unlabeled])
            self.log.telemetry.add(quality_counts(pseudo, on_mask_grid(labels, pseudo.masks)))

    @torch.no_grad()
    def observe(
        self,
        labels: Tensor,
        unlabeled: list[dict],
        strong: Tensor,
        regions: Regions,
        semantic_map: Tensor,
        pseudo: PseudoRegions,
    ) -> None:
        """Count where the student agrees, and draw training images, only for the log."""
        self.log.telemetry.add(agreement_counts(semantic_map, pseudo))
        self.log.telemetry.add(label_counts(on_mask_grid(labels, pseudo.masks), semantic_map.shape[1]))
        if self.images.due(self.iter):
            mixed = strong * self.student.pixel_std + self.student.pixel_mean
            self.images.draw([sample["image"] for sample in unlabeled], mixed, pseudo, regions)

    def seeds(self) -> tuple[int, int]:
        """Return this rank's seeds of this iteration: for mixing, and for torch's global generator."""
        mixing, rest = np.random.SeedSequence([self.seed, comm.get_rank(), self.iter]).generate_state(2).tolist()
        return mixing, rest

    def state_dict(self) -> dict:
        extra = {"grad_scaler": self.grad_scaler.state_dict(), "seed": self.seed, "bad_steps": self.log.bad_steps}
        return {**super().state_dict(), **extra}

    def load_state_dict(self, state_dict: dict) -> None:
        configured = [{key: group[key] for key in _CONFIGURED if key in group} for group in self.optimizer.param_groups]
        super().load_state_dict(state_dict)
        for group, values in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(values)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.log.bad_steps = state_dict["bad_steps"]
        if self.random_seed:
            self.seed = state_dict["seed"]

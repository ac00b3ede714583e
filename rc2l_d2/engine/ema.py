"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..host import HookBase, ImageList, comm
from ..regions import Selection, TeacherView, class_confidence_sums, class_thresholds, semantic_probabilities
from ..regions import update_class_confidence as updated_confidence
from .batch_statistics import batch_statistics, set_batch_statistics

# Confidence that every class is credited with before the teacher has been asked (our reading).
INITIAL_CONFIDENCE = 0.7


class EMATeacher:
    """A copy of the student that follows it slowly, and what is known about the copy's confidence.

    ``decay = min(max_decay, 1 - 1 / (updates + 1))``: the first update copies the student, later ones average. It is
    checkpointed under a key of its own, so the model in a checkpoint stays a plain region predictor.

    Attributes:
        model: the averaged model, in eval mode, without gradients.
        updates: number of updates so far.
        class_confidence: (K,), running mean confidence of each class.
    """

    def __init__(self, student: nn.Module, num_classes: int, max_decay: float):
        """
        Args:
            student: the model to follow (not wrapped for distributed training).
            num_classes: K.
            max_decay: largest decay, e.g. 0.999.
        """
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.max_decay = max_decay
        self.updates = 0
        device = next(student.parameters()).device
        self.class_confidence = torch.full((num_classes,), INITIAL_CONFIDENCE, device=device)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards ``student``.

        Parameters and running statistics are averaged alike: averaged weights give other activations than the newest
        ones, so the newest statistics would not fit them (UniMatch averages both too). Counters are copied.
        """
        decay = min(self.max_decay, 1 - 1 / (self.updates + 1))
        pairs = [*zip(self.model.parameters(), student.parameters(), strict=True)]
        pairs += zip(self.model.buffers(), student.buffers(), strict=True)
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        self.updates += 1

    def reset(self, student: nn.Module) -> None:
        """Start again from ``student``, as after loading weights into it."""
        self.model.load_state_dict(student.state_dict())
        self.updates = 0

    def look(self, samples: Sequence[dict]) -> TeacherView:
        """What the teacher says about the weak views of samples that :class:`rc2l_d2.data.UnlabeledMapper` made."""
        images = self.model.preprocess([sample["image"] for sample in samples])
        inside = [sample["inside"].to(self.model.device, non_blocking=True) for sample in samples]
        inside = ImageList.from_tensors(inside, self.model.size_divisibility, pad_value=False)
        return self.view(images.tensor, inside.tensor)

    @torch.no_grad()
    def view(self, images: Tensor, inside: Tensor) -> TeacherView:
        """What the teacher says about normalised weak views (B, 3, H, W).

        Args:
            inside: (B, H, W) bool, False on padding; reduced to the mask grid, where a position counts if its top left
                pixel does.
        """
        regions = self.model.regions(images)
        stride = images.shape[-1] // regions.mask_logits.shape[-1]
        return TeacherView(
            probabilities=semantic_probabilities(regions.class_logits, regions.mask_logits),
            features=regions.features,
            inside=inside[:, ::stride, ::stride],
        )

    def observe(self, view: TeacherView) -> None:
        """Take the confidence of ``view``, on all processes, into ``class_confidence``."""
        sums, counts = class_confidence_sums(view)
        if comm.get_world_size() > 1:
            both = torch.stack([sums, counts])
            torch.distributed.all_reduce(both)
            sums, counts = both
        self.class_confidence = updated_confidence(self.class_confidence, sums, counts)

    def thresholds(self, selection: Selection) -> Tensor:
        """(K,) confidence thresholds, see :func:`rc2l_d2.regions.class_thresholds`."""
        return class_thresholds(self.class_confidence, selection)

    def state_dict(self) -> dict:
        """Weights, number of updates and class confidences, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "updates": self.updates,
            "class_confidence": self.class_confidence,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
        self.class_confidence.copy_(state["class_confidence"])


class EMAHook(HookBase):
    """Updates the teacher after each step, the same on all processes.

    Stands before the checkpointer, or checkpoints hold a stale teacher.
    """

    def __init__(self, teacher: EMATeacher, student: nn.Module):
        """
        Args:
            teacher: to be updated.
            student: the trained model, not wrapped for distributed training.
        """
        self.teacher = teacher
        self.student = student

    def after_step(self) -> None:
        if comm.get_world_size() > 1:
            # Each process moved them by its own images; a checkpoint will hold the main process's.
            statistics = batch_statistics(self.student)
            torch.distributed.broadcast(statistics, src=0)
            set_batch_statistics(self.student, statistics)
        self.teacher.update(self.student)

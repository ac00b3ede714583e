"""The teacher: an exponential moving average (EMA) of the student."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..host import CfgNode, HookBase, ImageList, comm
from ..modeling import RegionSegmentor, SemiSupervisedSegmentor
from ..regions import PseudoLabeler, TeacherPrediction, teacher_prediction
from .batch_statistics import batch_statistics, set_batch_statistics


class EMATeacher:
    """A copy of the student that follows it slowly, with the labeler that turns its predictions into pseudo regions.

    ``decay = min(max_decay, 1 - 1 / (updates + 1))`` (our reading): the first update copies the student, later ones
    average. The teacher has its own key in a checkpoint, so that ``model`` stays a plain region predictor.

    Attributes:
        model: the averaged model, in eval mode, without gradients.
        updates: number of updates so far.
        labeler: the :class:`PseudoLabeler`; None where training uses labelled images alone.
    """

    def __init__(self, student: RegionSegmentor, max_decay: float, labeler: PseudoLabeler | None = None):
        """
        Args:
            student: the model to follow (not wrapped for distributed training).
            max_decay: largest decay, e.g. 0.999.
            labeler: see above.
        """
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.max_decay = max_decay
        self.updates = 0
        self.labeler = labeler

    @classmethod
    def from_config(cls, cfg: CfgNode, student: RegionSegmentor) -> EMATeacher:
        """Build the teacher of ``student`` with the labeler of its architecture."""
        labeler = None
        if isinstance(student, SemiSupervisedSegmentor):
            labeler = PseudoLabeler(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, student.selection, device=student.device)
        return cls(student, cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY, labeler)

    @torch.no_grad()
    def update(self, student: RegionSegmentor) -> None:
        """Move towards ``student``.

        Parameters and running statistics are averaged alike (as in UniMatch): averaged weights give other activations
        than the newest ones, so the newest statistics would not fit them. Counters are copied.
        """
        decay = min(self.max_decay, 1 - 1 / (self.updates + 1))
        pairs: list[tuple[Tensor, Tensor]] = [*zip(self.model.parameters(), student.parameters(), strict=True)]
        pairs += zip(self.model.buffers(), student.buffers(), strict=True)
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in averaged], [new for _, new in averaged], 1 - decay)
        for mine, new in pairs:
            if not mine.is_floating_point():
                mine.copy_(new)
        self.updates += 1

    def reset(self, student: RegionSegmentor) -> None:
        """Start again from ``student``, as after loading weights into it."""
        self.model.load_state_dict(student.state_dict())
        self.updates = 0

    def predict(self, samples: Sequence[dict]) -> TeacherPrediction:
        """Predict for the weak views of samples from :class:`rc2l_d2.data.UnlabeledMapper`."""
        images = self.model.preprocess([sample["image"] for sample in samples])
        inside = [sample["inside"].to(self.model.device, non_blocking=True) for sample in samples]
        inside = ImageList.from_tensors(inside, self.model.size_divisibility, pad_value=False)
        return self.predict_batch(images.tensor, inside.tensor)

    @torch.no_grad()
    def predict_batch(self, images: Tensor, inside: Tensor) -> TeacherPrediction:
        """Predict for normalised weak views (B, 3, H, W).

        Args:
            inside: (B, H, W) bool, False on padding; a mask pixel is inside where its top left pixel is.
        """
        regions = self.model.regions(images)
        stride = images.shape[-1] // regions.mask_logits.shape[-1]
        semantic_map = self.model.semantic_map(regions)
        return teacher_prediction(semantic_map, regions.features, inside[:, ::stride, ::stride])

    def state_dict(self) -> dict:
        """Return weights, number of updates and, with a labeler, its kappa, for a checkpoint."""
        state = {"model": self.model.state_dict(), "updates": self.updates}
        return state if self.labeler is None else {**state, "class_confidence": self.labeler.kappa}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
        if self.labeler is not None:
            self.labeler.kappa.copy_(state["class_confidence"])


class EMAHook(HookBase):
    """Updates the teacher after each step, the same on all ranks.

    Stands before the checkpointer, or checkpoints would hold a stale teacher.
    """

    def __init__(self, teacher: EMATeacher, student: RegionSegmentor):
        """
        Args:
            teacher: to be updated.
            student: the trained model, not wrapped for distributed training.
        """
        self.teacher = teacher
        self.student = student

    def after_step(self) -> None:
        if comm.get_world_size() > 1:
            # Each rank updated them by its own images; a checkpoint will hold those of the main rank.
            statistics = batch_statistics(self.student)
            torch.distributed.broadcast(statistics, src=0)
            set_batch_statistics(self.student, statistics)
        self.teacher.update(self.student)

"""The student's views of unlabelled images: mixed strong views, and weak views that lose feature channels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host import CfgNode
from ..modeling import SemiSupervisedSegmentor
from ..regions import (
    TeacherPrediction,
    classmix_mask,
    concatenated,
    cutmix_mask,
    labeled_prediction,
    map_fields,
    mix,
    neighbours,
)
from .ema import EMATeacher


class StudentViews:
    """Builds the student's views of a step, with the teacher's prediction for each."""

    def __init__(self, settings: CfgNode, student: SemiSupervisedSegmentor, teacher: EMATeacher):
        """
        Args:
            settings: MODEL.SEMI_SUPERVISED; STRONG_VIEWS, FEATURE_DROPOUT and MIX are read.
            student: normalises the views.
            teacher: gives the features of labelled images, for MIX "labeled" and losses that read them.
        """
        self.settings = settings
        self.student = student
        self.teacher = teacher

    def __call__(
        self,
        unlabeled: list[dict],
        prediction: TeacherPrediction,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        seed: int,
    ) -> tuple[Tensor, TeacherPrediction, int]:
        """Return the views, the teacher's prediction for each, and the number of views that lose feature channels.

        The views, normalised (B', 3, H, W), are V * B mixed strong views, the first view of each image first. With
        FEATURE_DROPOUT the B weak views follow, unmixed, whose feature channels are dropped.

        Args:
            unlabeled: B samples.
            prediction: the teacher's, for their weak views.
            images, labels: the labelled batch, (B, 3, H, W) normalised and (B, H, W), from which MIX "labeled" takes
                regions.
            iteration: counted from 0.
            seed: of the random numbers of mixing. They do not come from torch's global generator, so that all methods
                mix the same way with the same seed.
        """
        views = [[sample["strong"][view] for sample in unlabeled] for view in range(self.settings.STRONG_VIEWS)]
        strong = self.student.preprocess(sum(views, [])).tensor
        prediction_of_strong = concatenated([prediction] * len(views)) if len(views) > 1 else prediction
        generator = torch.Generator().manual_seed(seed)
        strong, mixed = self._mix(strong, prediction_of_strong, images, labels, iteration, generator)
        if not self.settings.FEATURE_DROPOUT:
            return strong, mixed, 0
        weak = self.student.preprocess([sample["image"] for sample in unlabeled]).tensor
        return torch.cat([strong, weak]), concatenated([mixed, prediction]), len(weak)

    def _mix(
        self,
        strong: Tensor,
        prediction: TeacherPrediction,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, TeacherPrediction]:
        """Mix strong views and the teacher's prediction for them by MIX, with the same masks."""

        def uniform(columns: int) -> Tensor:
            return torch.rand(batch, columns, generator=generator).to(strong.device, non_blocking=True)

        batch, num_classes, height, width = prediction.semantic_map.shape
        if self.settings.MIX == "none":
            return strong, prediction
        partners = neighbours(strong, prediction)
        if self.settings.MIX == "classmix":
            return mix(strong, prediction, classmix_mask(partners[1], uniform(num_classes)), *partners)
        boxes = cutmix_mask(uniform(4), (height, width))
        if self.settings.MIX == "cutmix":
            return mix(strong, prediction, boxes, *partners)
        # Into every second image regions of a labelled one are pasted, into the others a box of their neighbour.
        place = torch.arange(batch, device=strong.device)
        pasted = min(len(images), (batch + 1) // 2)
        labeled = map_fields(
            lambda x: x[place // 2 % pasted], self._labeled(images[:pasted], labels[:pasted], prediction)
        )

        def every_second(x: Tensor, other: Tensor) -> Tensor:
            return torch.where(((place + iteration) % 2 == 0).view(-1, *[1] * (x.dim() - 1)), x, other)

        masks = every_second(classmix_mask(labeled, uniform(num_classes)), boxes)
        partner_images = every_second(images[place // 2 % pasted], partners[0])
        return mix(strong, prediction, masks, partner_images, map_fields(every_second, labeled, partners[1]))

    def _labeled(self, images: Tensor, labels: Tensor, like: TeacherPrediction) -> TeacherPrediction:
        """Return the labels of the labelled batch as a prediction; its features are zero where no loss reads them."""
        if self.student.reads_teacher_features:
            with torch.no_grad():
                features = self.teacher.model.regions(images).features
        else:
            features = torch.zeros_like(like.features[: len(images)])
        return labeled_prediction(on_mask_grid(labels, features), features, like)


def on_mask_grid(labels: Tensor, like: Tensor) -> Tensor:
    """Return (B, h, w) of labels (B, H, W): the pixel next to the middle of each mask pixel of ``like`` (..., h, w)."""
    stride = labels.shape[-1] // like.shape[-1]
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]

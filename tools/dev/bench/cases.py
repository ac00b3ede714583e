"""Random batches, regions and teacher predictions in the shapes of a training step."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from rc2l_d2.host import CfgNode
from rc2l_d2.regions import Regions, TeacherPrediction, teacher_prediction


def random_batch(cfg: CfgNode, uses_unlabeled: bool) -> tuple[list[dict], list[dict]]:
    """Return labelled and unlabelled samples of noise in the form of the loader; labels are stripes of 16 classes."""
    generator = torch.Generator().manual_seed(0)
    height, width = cfg.INPUT.CROP.SIZE

    def images(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)

    stripes = torch.arange(height) * 16 // height % cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    label = stripes.to(torch.uint8)[:, None].repeat(1, width)
    inside = torch.ones(height, width, dtype=torch.bool)
    labeled = [{"file_name": "", "image": x, "sem_seg": label} for x in images(cfg.SOLVER.IMS_PER_BATCH)]
    weak = images(cfg.SOLVER.IMS_PER_BATCH_UNLABELED if uses_unlabeled else 0)
    unlabeled = [{"file_name": "", "image": x, "strong": 255 - x, "inside": inside} for x in weak]
    return labeled, unlabeled


def random_case(
    images: int, queries: int, classes: int, channels: int, size: int, device: torch.device
) -> tuple[Regions, TeacherPrediction]:
    """Return a student's regions (leaves that require gradients) and a teacher prediction with blobs of all classes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    regions = Regions(
        random(images, queries, classes + 1).requires_grad_(),
        random(images, queries, size, size).requires_grad_(),
        random(images, channels, size, size).requires_grad_(),
    )
    coarse = random(images, classes, 8, 8)
    scores = F.interpolate(coarse, size=(size, size), mode="bilinear")
    inside = torch.ones(images, size, size, dtype=torch.bool, device=device)
    teacher = teacher_prediction(scores.mul(4).softmax(dim=1), random(images, channels, size, size), inside)
    return regions, teacher

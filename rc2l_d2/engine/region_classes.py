"""The hook that fits the classes of regions to whole images, see :class:`rc2l_d2.modeling.RegionClassifier`."""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

from ..data import build_whole_image_loader, classes_in_label
from ..errors import InputError
from ..host import CfgNode, HookBase, comm
from ..modeling import RegionClassifier, RegionSample, RegionSegmentor, is_per_pixel

logger = logging.getLogger(__name__)
# Images of a stream that are enough. Regions of unlabelled images below this fraction of the image hardly count.
_LIMIT, _SMALLEST = 1000, 1e-3


def region_classifier(model: nn.Module) -> RegionClassifier | None:
    """Return the model's classifier of regions, None where it has none."""
    predictor = getattr(getattr(model, "sem_seg_head", None), "predictor", None)
    return getattr(predictor, "classifier", None)


def fits_whole_images(cfg: CfgNode) -> bool:
    """Return whether the classes of regions are fitted to whole images, and suit windows of them less."""
    keys = cfg.MODEL.MASK_FORMER
    return keys.MATCHING == "class" and keys.CLASS_MEANS > 0 and not is_per_pixel(cfg)


def check_whole_images(cfg: CfgNode, eval_only: bool = False) -> None:
    """Refuse to fit the classes of regions to whole images where windows are predicted; warn where they are fitted.

    Raises:
        InputError: training would do so.
    """
    if not (cfg.TEST.SLIDING_WINDOW.ENABLED and fits_whole_images(cfg)):
        return
    problem = (
        "MODEL.MASK_FORMER.CLASS_MEANS fits classes to whole images, but TEST.SLIDING_WINDOW predicts their windows"
    )
    if not eval_only:
        raise InputError(f"{problem}; set CLASS_MEANS 0.0 or SLIDING_WINDOW.ENABLED False.")
    logger.warning("%s: classes may be less accurate than without.", problem)


class RegionClassHook(HookBase):
    """Fits the classes of regions of teacher and student after burn-in, after ramp-up and at the end of training.

    Stands after the teacher's update, and before evaluation and checkpointer.
    """

    def __init__(self, cfg: CfgNode, teacher: RegionSegmentor, student: RegionSegmentor):
        """
        Args:
            cfg: DATASETS.TRAIN, UNLABELED and INPUT name the images and their sizes.
            teacher: predicts the regions.
            student: gets the same classes; its ``fits_unlabeled_regions`` says whether unlabelled images take part.
        """
        self.cfg, self.teacher, self.student = cfg, teacher, student
        burn_in, ramp_up = cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS, cfg.MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS
        self.iterations = {burn_in, burn_in + ramp_up, cfg.SOLVER.MAX_ITER}

    def after_step(self) -> None:
        if self.trainer.iter + 1 in self.iterations:
            fit_region_classes(self.cfg, self.teacher, self.student)


@torch.no_grad()
def fit_region_classes(cfg: CfgNode, teacher: RegionSegmentor, student: RegionSegmentor) -> None:
    """Fit the classifier of ``teacher`` to its regions of whole training images, and copy it to ``student``."""
    classifier, own = region_classifier(teacher), region_classifier(student)
    assert classifier is not None and own is not None
    start = time.perf_counter()
    logger.info("Fitting the classes of regions to whole images, up to %d of each stream.", _LIMIT)
    labeled = _regions_of(cfg, teacher, "TRAIN")
    if labeled is None:
        logger.warning("The classes of regions are not fitted: no whole image of DATASETS.TRAIN can be read.")
        return
    with_others = student.fits_unlabeled_regions and cfg.DATASETS.UNLABELED
    unlabeled = _regions_of(cfg, teacher, "UNLABELED") if with_others else None
    classifier.fit(labeled, unlabeled, cfg.MODEL.MASK_FORMER.CLASS_DROPOUT)
    if comm.get_world_size() > 1:
        for buffer in classifier.buffers():  # Ranks may round differently.
            torch.distributed.broadcast(buffer, src=0)
    own.load_state_dict(classifier.state_dict())
    logger.info(
        "The classes of regions were fitted to %d labelled and %d other regions of whole images (%.0f s).",
        len(labeled.area), 0 if unlabeled is None else len(unlabeled.area), time.perf_counter() - start,
    )  # fmt: skip


def _regions_of(cfg: CfgNode, model: RegionSegmentor, stream: str) -> RegionSample | None:
    """Return the regions of whole images of DATASETS.TRAIN, of the classes in their labels, or of UNLABELED, if any."""
    classes, ignore_value, rows = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, []
    for sample in build_whole_image_loader(cfg, stream, _LIMIT):
        try:
            present = classes_in_label(sample, classes, ignore_value) if stream == "TRAIN" else None
        except InputError as error:
            logger.warning("%s", error)
            continue
        regions = model.regions(model.preprocess([sample["image"]]).tensor)
        assert regions.region_features is not None
        features, area = regions.region_features[0].cpu(), regions.mask_logits[0].sigmoid().mean(dim=(1, 2)).cpu()
        kept = area > _SMALLEST if present is None else torch.from_numpy(present)
        rows.append((features[kept], area[kept], kept.nonzero().squeeze(1)))
    rows = [row for of_rank in comm.all_gather(rows) for row in of_rank]
    if not any(len(area) for _, area, _ in rows):
        return None
    features, area, query = (torch.cat(parts).to(model.device) for parts in zip(*rows, strict=True))
    return RegionSample(features, area, query)

"""Metrics over a data set and over all ranks."""

from __future__ import annotations

import logging

import numpy as np
import torch

from ..data import read_label
from ..data.loading.mappers import check_label
from ..errors import InputError
from ..host import HOST, HOST_EVALUATOR, MetadataCatalog, comm
from ..regions import most_probable
from .metrics import confusion_matrix, semantic_metrics

logger = logging.getLogger(__name__)


class SemanticEvaluator:
    """Evaluator of semantic segmentation at the resolution of the label files, with Detectron2's interface.

    On Detectron2 its own evaluator gets the same predictions and labels; its mIoU is reported as ``mIoU_detectron2``,
    for comparison with other projects.
    """

    def __init__(self, dataset_name: str):
        """Take a registered data set (InputError if its metadata lacks ``stuff_classes`` or ``ignore_label``)."""
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("stuff_classes") is None or metadata.get("ignore_label") is None:
            raise InputError(f"The data set '{dataset_name}' has no stuff_classes or no ignore_label; register both.")
        self.class_names = list(metadata.stuff_classes)
        self.ignore_value = metadata.ignore_label
        self._host_evaluator = None
        if HOST_EVALUATOR is not None:
            # It loads labels by file name; _label_of returns the label that process() has read and mapped.
            options = {"distributed": comm.get_world_size() > 1, "sem_seg_loading_fn": self._label_of}
            self._host_evaluator = HOST_EVALUATOR(dataset_name, **options)
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self._confusion = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.int64)
        self._label: tuple[str, np.ndarray] | None = None
        if self._host_evaluator is not None:
            self._host_evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of some images.

        Args:
            inputs: samples with ``file_name``, ``sem_seg_file_name`` and optionally ``label_map``.
            outputs: for each, ``{"sem_seg": (K, H, W)}``, scores at the size of its label file, on any device.

        Raises:
            InputError: an image has no label, or its label cannot be read or does not fit the prediction.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            scores, file = output["sem_seg"], sample.get("sem_seg_file_name")
            if file is None:
                raise InputError(f"{sample['file_name']} has no label; name a labelled data set in DATASETS.TEST.")
            if len(scores) != len(self.class_names):
                raise InputError(
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {len(scores)}, but the data set of {sample['file_name']} has "
                    f"{len(self.class_names)} classes; make them equal."
                )
            label = read_label(file, sample.get("label_map"))
            check_label(label, tuple(scores.shape[-2:]), sample, len(self.class_names), self.ignore_value)
            truth = torch.from_numpy(label).to(scores.device)
            counts = confusion_matrix(most_probable(scores, dim=0), truth, len(self.class_names), self.ignore_value)
            self._confusion = self._confusion.to(scores.device) + counts
            if self._host_evaluator is not None:
                self._label = str(file), label
                self._host_evaluator.process([sample], [output])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return ``{"sem_seg": metrics}`` over the images of all ranks, see :func:`semantic_metrics`.

        All ranks must call it; ranks other than 0 get None.
        """
        gathered = comm.gather(self._confusion.cpu())
        host_results = self._host_evaluator.evaluate() if self._host_evaluator is not None else None
        if not comm.is_main_process():
            return None
        metrics = semantic_metrics(sum(gathered), self.class_names)
        if host_results is not None:
            metrics[f"mIoU_{HOST}"] = float(host_results["sem_seg"]["mIoU"])
        logger.info("IoU: %s", ", ".join(f"{name} {metrics[f'IoU-{name}']:.1f}" for name in self.class_names))
        return {"sem_seg": metrics}

    def _label_of(self, file: str, dtype: type) -> np.ndarray:
        """Return the label that was read last, for the host's evaluator."""
        read, label = self._label
        if read != str(file):
            raise InputError(f"DATASETS.TEST has two labels for one image, {read} and {file}; list each image once.")
        return label.astype(dtype)

"""The metrics of semantic segmentation, as Detectron2 defines and names them."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np
import torch
from PIL import Image

from . import comm
from .catalog import DatasetCatalog, MetadataCatalog
from .evaluation import DatasetEvaluator


def load_image_into_numpy_array(filename: str, dtype: np.dtype | type | str | None = None) -> np.ndarray:
    """The values in an image file; of a palette image its indices, not its colours."""
    with Image.open(filename) as image:
        return np.array(image, dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """IoU, boundary IoU and accuracy from confusion matrices over all images (K classes).

    Ground truth of ``ignore_label`` counts nowhere. IoU and accuracy of a class that is absent from the ground
    truth are NaN and left out of the means; in fwIoU classes weigh by their ground-truth pixels.

    Args:
        dataset_name: a name in the catalogs; its dicts have ``sem_seg_file_name``, its metadata
            ``stuff_classes`` and ``ignore_label``.
        distributed: gather over all processes; otherwise each evaluates its own images.
        output_dir: where predictions and results are written; nothing is written if None.
        sem_seg_loading_fn: ``f(filename, dtype=int)`` that returns a label map (H, W).
        num_classes, ignore_label: must agree with, or stand in for, the metadata.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable[..., np.ndarray] = load_image_into_numpy_array,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ):
        meta = MetadataCatalog.get(dataset_name)
        self._logger = logging.getLogger(__name__)
        self._distributed = distributed
        self._output_dir = output_dir
        self._class_names = list(meta.stuff_classes)
        self._num_classes = len(self._class_names)
        assert num_classes in (None, self._num_classes), f"{num_classes} classes given, {self._num_classes} in metadata"
        self._ignore_label = meta.ignore_label if ignore_label is None else ignore_label
        dataset_ids = getattr(meta, "stuff_dataset_id_to_contiguous_id", None)
        self._dataset_ids = None if dataset_ids is None else {v: k for k, v in dataset_ids.items()}
        self.sem_seg_loading_fn = sem_seg_loading_fn
        self.input_file_to_gt_file = {
            record["file_name"]: record["sem_seg_file_name"] for record in DatasetCatalog.get(dataset_name)
        }
        # Erosion works on uint8, which has to hold the classes and one more.
        self._boundaries = self._num_classes < 255
        if not self._boundaries:
            self._logger.warning("Boundary IoU is left out: it takes fewer than 255 classes.")
        self.reset()

    def reset(self) -> None:
        # [predicted, ground truth]; the last index stands for ignored ground truth.
        shape = (self._num_classes + 1, self._num_classes + 1)
        self._confusion = np.zeros(shape, dtype=np.int64)
        self._boundary_confusion = np.zeros(shape, dtype=np.int64)
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Compare ``output["sem_seg"]`` (K, H, W), scores at original size, with the label file of each input.

        Raises:
            ValueError: a label file has another size than the prediction, or a value that is no class.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            prediction = output["sem_seg"].argmax(dim=0).cpu().numpy()
            label_file = self.input_file_to_gt_file[sample["file_name"]]
            truth = np.asarray(self.sem_seg_loading_fn(label_file, dtype=int))
            if truth.shape != prediction.shape:
                raise ValueError(f"{label_file} has shape {truth.shape}, its prediction {prediction.shape}.")
            ignored = truth == self._ignore_label
            wrong = truth[~ignored & ((truth < 0) | (truth >= self._num_classes))]
            if wrong.size:
                raise ValueError(f"{label_file} holds the value {wrong[0]}, but there are {self._num_classes} classes.")
            truth = np.where(ignored, self._num_classes, truth)
            self._confusion += self._count(prediction, truth)
            if self._boundaries:
                self._boundary_confusion += self._count(_boundary(prediction), _boundary(truth))
            if self._output_dir:
                self._predictions.extend(self.encode_json_sem_seg(prediction, sample["file_name"]))

    def _count(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        size = self._num_classes + 1
        index = size * prediction.reshape(-1).astype(np.int64) + truth.reshape(-1)
        return np.bincount(index, minlength=size * size).reshape(size, size)

    def evaluate(self) -> OrderedDict | None:
        """``{"sem_seg": {...}}`` in percent: mIoU, fwIoU, IoU-<class>, BoundaryIoU-<class>,
        min(IoU, B-Iou)-<class>, mACC, pACC and ACC-<class>; None on ranks other than 0 when distributed."""
        if self._distributed:
            comm.synchronize()
            gathered = comm.all_gather((self._confusion, self._boundary_confusion, self._predictions))
            if not comm.is_main_process():
                return None
            self._confusion = sum(confusion for confusion, _, _ in gathered)
            self._boundary_confusion = sum(confusion for _, confusion, _ in gathered)
            self._predictions = list(itertools.chain.from_iterable(predictions for _, _, predictions in gathered))

        correct, in_truth, union = _areas(self._confusion)
        present = in_truth > 0
        accuracy = _ratio(correct, in_truth, present)
        iou = _ratio(correct, union, present)
        metrics = {
            "mIoU": 100 * np.sum(iou[present]) / np.sum(present),
            "fwIoU": 100 * np.sum(iou[present] * (in_truth / np.sum(in_truth))[present]),
        }
        if self._boundaries:
            # Unlike IoU, boundary IoU is 0 rather than NaN for a class that is predicted but absent.
            correct_edge, _, union_edge = _areas(self._boundary_confusion)
            boundary_iou = _ratio(correct_edge, union_edge, union_edge > 0)
        for index, name in enumerate(self._class_names):
            metrics[f"IoU-{name}"] = 100 * iou[index]
            if self._boundaries:
                metrics[f"BoundaryIoU-{name}"] = 100 * boundary_iou[index]
                metrics[f"min(IoU, B-Iou)-{name}"] = 100 * min(iou[index], boundary_iou[index])
        metrics["mACC"] = 100 * np.sum(accuracy[present]) / np.sum(present)
        metrics["pACC"] = 100 * np.sum(correct) / np.sum(in_truth)
        for index, name in enumerate(self._class_names):
            metrics[f"ACC-{name}"] = 100 * accuracy[index]
        results = OrderedDict(sem_seg={name: float(value) for name, value in metrics.items()})

        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, "sem_seg_predictions.json"), "w", encoding="utf-8") as file:
                json.dump(self._predictions, file)
            torch.save(results["sem_seg"], os.path.join(self._output_dir, "sem_seg_evaluation.pth"))
        self._logger.info(results)
        return results

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        """One COCO "stuff" record with a run-length encoded mask for each class in ``sem_seg`` (H, W)."""
        import pycocotools.mask as mask_util  # needed only where predictions are written

        records = []
        for label in np.unique(sem_seg).tolist():
            rle = mask_util.encode(np.asfortranarray(sem_seg == label, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode("utf-8")
            category = label if self._dataset_ids is None else self._dataset_ids[label]
            records.append({"file_name": input_file_name, "category_id": category, "segmentation": rle})
        return records


def _areas(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that are correct, in the ground truth, and in the union, of each class, where nothing is ignored."""
    counted = confusion[:-1, :-1].astype(float)
    correct, in_truth = counted.diagonal(), counted.sum(axis=0)
    return correct, in_truth, in_truth + counted.sum(axis=1) - correct


def _ratio(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """``part / whole`` where defined, NaN elsewhere."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=defined)


def _boundary(labels: np.ndarray) -> np.ndarray:
    """The label map minus its erosion by 2 % of the diagonal, seen as one grey image as Detectron2 does."""
    height, width = labels.shape
    labels = labels.astype(np.uint8)
    distance = max(1, round(0.02 * np.hypot(height, width)))
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=distance)
    return labels - eroded[1:-1, 1:-1]

"""The metrics of semantic segmentation, as Detectron2 defines and names them."""

from __future__ import annotations

import logging
from collections import OrderedDict

import cv2
import numpy as np
from PIL import Image

from . import comm
from .catalog import DatasetCatalog, MetadataCatalog


class SemSegEvaluator:
    """IoU, boundary IoU and accuracy from confusion matrices over all images (K classes).

    Ground truth of ``ignore_label`` counts nowhere. IoU and accuracy of a class that is absent from the ground
    truth are NaN and left out of the means; in fwIoU classes weigh by their ground-truth pixels.

    Args:
        dataset_name: a name in the catalogs; its dicts have ``sem_seg_file_name`` (of a palette image the indices
            count), its metadata ``stuff_classes`` and ``ignore_label``.
        distributed: gather over all processes; otherwise each evaluates its own images.
    """

    def __init__(self, dataset_name: str, distributed: bool = True):
        meta = MetadataCatalog.get(dataset_name)
        self._distributed = distributed
        self._class_names = list(meta.stuff_classes)
        self._num_classes = len(self._class_names)
        self._ignore_label = meta.ignore_label
        records = DatasetCatalog.get(dataset_name)
        self._label_files = {record["file_name"]: record["sem_seg_file_name"] for record in records}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # For whole masks and for boundaries: [predicted, ground truth]; the last index is ignored ground truth.
        self._confusion = np.zeros((2, self._num_classes + 1, self._num_classes + 1), dtype=np.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Compare ``output["sem_seg"]`` (K, H, W), scores at original size, with the label file of each input.

        Raises:
            ValueError: a label file has another size than the prediction, or a value that is no class.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            prediction = output["sem_seg"].argmax(dim=0).cpu().numpy()
            label_file = self._label_files[sample["file_name"]]
            with Image.open(label_file) as image:
                truth = np.array(image, dtype=int)
            if truth.shape != prediction.shape:
                raise ValueError(f"{label_file} has shape {truth.shape}, its prediction {prediction.shape}.")
            ignored = truth == self._ignore_label
            wrong = truth[~ignored & ((truth < 0) | (truth >= self._num_classes))]
            if wrong.size:
                raise ValueError(f"{label_file} holds the value {wrong[0]}, but there are {self._num_classes} classes.")
            truth = np.where(ignored, self._num_classes, truth)
            self._confusion[0] += self._count(prediction, truth)
            self._confusion[1] += self._count(_boundary(prediction), _boundary(truth))

    def _count(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        size = self._num_classes + 1
        index = size * prediction.reshape(-1).astype(np.int64) + truth.reshape(-1)
        return np.bincount(index, minlength=size * size).reshape(size, size)

    def evaluate(self) -> OrderedDict | None:
        """``{"sem_seg": {...}}`` in percent: mIoU, fwIoU, IoU-<class>, BoundaryIoU-<class>,
        min(IoU, B-Iou)-<class>, mACC, pACC and ACC-<class>; None on ranks other than 0 when distributed."""
        if self._distributed:
            gathered = comm.all_gather(self._confusion)
            if not comm.is_main_process():
                return None
            self._confusion = sum(gathered)
        (correct, in_truth, union), (correct_edge, _, union_edge) = map(_areas, self._confusion)
        present = in_truth > 0
        accuracy = 100 * _ratio(correct, in_truth, present)
        iou = 100 * _ratio(correct, union, present)
        # Unlike IoU, boundary IoU is 0 rather than NaN for a class that is predicted but absent.
        boundary_iou = 100 * _ratio(correct_edge, union_edge, union_edge > 0)
        metrics = {"mIoU": np.mean(iou[present]), "fwIoU": np.sum((iou * in_truth)[present]) / np.sum(in_truth)}
        for index, name in enumerate(self._class_names):
            metrics[f"IoU-{name}"] = iou[index]
            metrics[f"BoundaryIoU-{name}"] = boundary_iou[index]
            metrics[f"min(IoU, B-Iou)-{name}"] = min(iou[index], boundary_iou[index])
        metrics |= {"mACC": np.mean(accuracy[present]), "pACC": 100 * np.sum(correct) / np.sum(in_truth)}
        metrics |= {f"ACC-{name}": accuracy[index] for index, name in enumerate(self._class_names)}
        results = OrderedDict(sem_seg={name: float(value) for name, value in metrics.items()})
        logging.getLogger(__name__).info(results)
        return results


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
    labels = labels.astype(np.uint16)
    distance = max(1, round(0.02 * np.hypot(height, width)))
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=distance)
    return labels - eroded[1:-1, 1:-1]

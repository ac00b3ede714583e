"""From a dataset dict to a sample of tensors: labelled, unlabelled, and for testing.

A training mapper is a callable of (dataset dict, NumPy generator) without state: a sample depends on the file and the
generator alone. The test mapper is a callable of the dataset dict, and nothing in it is random.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ...errors import InputError, first_few
from ...host import CfgNode
from .raster import open_windows, read_label_window
from .reading import check_format, read_image, read_image_reduced, read_label, swapped, turned_by_exif
from .transforms import (
    IMAGE_PADDING,
    Geometry,
    GeometrySettings,
    resize_image,
    sample_geometry,
    sample_short_edge,
    scaled_size,
    ssd_distortion,
    strong_view,
)


class _TrainMapper:
    """The weak geometry of ``cfg.INPUT``, applied to an image and its label."""

    def __init__(self, cfg: CfgNode):
        self.geometry = geometry_settings(cfg)
        self.format = check_format(cfg.INPUT.FORMAT)
        self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def _cut(self, entry: dict, rng: np.random.Generator) -> tuple[np.ndarray, Geometry, tuple[int, int]]:
        """Return the cut image (h, w, 3), not padded yet, with its geometry and the file's size (H, W)."""
        short_edge = sample_short_edge(self.geometry, rng)
        # A crop at the image's own size needs no other part of it.
        if not short_edge and (raster := open_windows(entry["file_name"], entry.get("bands"))):
            with raster:
                geometry = sample_geometry(raster.size, short_edge, self.geometry, rng)
                return geometry.mirror(raster.read(*geometry.window)), geometry, raster.size
        image, size = read_image_reduced(entry["file_name"], short_edge, entry.get("bands"))
        geometry = sample_geometry(size, short_edge, self.geometry, rng)
        return geometry.cut_image(image), geometry, size

    def _image(self, image: np.ndarray, geometry: Geometry) -> torch.Tensor:
        return _tensor(geometry.pad(image, IMAGE_PADDING), self.format)

    def _label(self, entry: dict, geometry: Geometry, size: tuple[int, int]) -> torch.Tensor:
        if "sem_seg_file_name" not in entry:
            return torch.full(geometry.crop, self.ignore_value, dtype=torch.uint8)
        file, label_map = entry["sem_seg_file_name"], entry.get("label_map")
        part = read_label_window(file, label_map, geometry.window) if geometry.size == size else None
        if part is not None and part[1] == size:
            check_label(part[0], part[0].shape, entry, self.num_classes, self.ignore_value)
            return torch.from_numpy(geometry.pad(geometry.mirror(part[0]), self.ignore_value))
        label = read_label(file, label_map)
        check_label(label, size, entry, self.num_classes, self.ignore_value)
        return torch.from_numpy(geometry.pad(geometry.cut_label(label), self.ignore_value))


class LabeledMapper(_TrainMapper):
    """Training sample with its label.

    Returns {"file_name", "image": uint8 (3, h, w) in INPUT.FORMAT order, "sem_seg": uint8 (h, w)} with (h, w) =
    INPUT.CROP.SIZE; padding is 128 in the image and the ignore value in the label.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.color_aug = cfg.INPUT.COLOR_AUG_SSD

    def __call__(self, entry: dict, rng: np.random.Generator) -> dict:
        """Raises InputError where a file cannot be read, sizes differ, or the label has a value outside the classes."""
        image, geometry, size = self._cut(entry, rng)
        label = self._label(entry, geometry, size)
        if self.color_aug:
            image = ssd_distortion(image, rng)
        return {"file_name": entry["file_name"], "image": self._image(image, geometry), "sem_seg": label}


class UnlabeledMapper(_TrainMapper):
    """Training sample without label: a weak view and strong views of one geometry.

    Returns {"file_name", "image": weak view, uint8 (3, h, w), "strong": uint8 (V, 3, h, w), "inside": bool (h, w),
    False on padding} with (h, w) = INPUT.CROP.SIZE and V = MODEL.SEMI_SUPERVISED.STRONG_VIEWS. With
    MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS also "sem_seg": uint8 (h, w), the label to compare pseudo labels with;
    the ignore value everywhere where the image has none.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.jitter, self.grayscale = strong_view_settings(cfg)
        self.strong_views = cfg.MODEL.SEMI_SUPERVISED.STRONG_VIEWS
        self.with_label = cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS

    def __call__(self, entry: dict, rng: np.random.Generator) -> dict:
        """Raises InputError where the image cannot be read, or a label to compare with does not fit."""
        weak, geometry, size = self._cut(entry, rng)
        views = [strong_view(weak, self.jitter, self.grayscale, rng) for _ in range(self.strong_views)]
        sample = {
            "file_name": entry["file_name"],
            "image": self._image(weak, geometry),
            "strong": torch.stack([self._image(view, geometry) for view in views]),
            "inside": torch.from_numpy(geometry.inside()),
        }
        if self.with_label:
            sample["sem_seg"] = self._label(entry, geometry, size)
        return sample


class TestMapper:
    """Test sample: the whole image, its shortest edge INPUT.MIN_SIZE_TEST (0: unchanged), limited by MAX_SIZE_TEST.

    Returns {"file_name", "image_id", "image": uint8 (3, h, w), "height", "width": the file's size in pixels}, and
    "sem_seg_file_name", "label_map" and "bands" where the data set has them. With TEST.AUG.ENABLED also "scales": a
    list of the image at each of TEST.AUG.MIN_SIZES (0: unchanged), limited by TEST.AUG.MAX_SIZE, in the same form.
    """

    __test__ = False  # pytest collects every class named Test*.

    def __init__(self, cfg: CfgNode):
        self.short_edge = cfg.INPUT.MIN_SIZE_TEST
        self.long_edge = cfg.INPUT.MAX_SIZE_TEST
        self.scales = augmented_sizes(cfg)
        self.format = check_format(cfg.INPUT.FORMAT)

    def __call__(self, entry: dict) -> dict:
        """Raises InputError where the image cannot be read."""
        kept = ("file_name", "image_id", "sem_seg_file_name", "label_map", "bands")
        sample = {key: entry[key] for key in kept if key in entry}
        return sample | self.sample(read_image(entry["file_name"], rule=entry.get("bands")))

    def sample(self, image: np.ndarray) -> dict:
        """Return the sample of an image, uint8 (H, W, 3) in BGR order, without names and label map."""
        size = image.shape[:2]
        edges = ((self.short_edge, self.long_edge), *self.scales)
        first, *scales = [_tensor(resize_image(image, scaled_size(size, *pair)), self.format) for pair in edges]
        sample = {"image": first, "height": size[0], "width": size[1]}
        return sample | {"scales": scales} if scales else sample


def augmented_sizes(cfg: CfgNode) -> tuple[tuple[int, int], ...]:
    """Return (short edge, limit of the long edge) in pixels of each size in ``cfg.TEST.AUG``; none if not enabled.

    Raises:
        InputError: it is enabled without a size, or with an impossible one.
    """
    if not cfg.TEST.AUG.ENABLED:
        return ()
    sizes, limit = tuple(cfg.TEST.AUG.MIN_SIZES), cfg.TEST.AUG.MAX_SIZE
    are_sizes = sizes and all(isinstance(size, int) and size >= 0 for size in sizes)
    advice = "give one or several lengths of the shortest edge in whole pixels (0: the image's own size)"
    _require(are_sizes, f"TEST.AUG.MIN_SIZES is {sizes}; {advice}.")
    return tuple((size, limit) for size in sizes)


def geometry_settings(cfg: CfgNode) -> GeometrySettings:
    """Return the settings of the weak geometry in ``cfg.INPUT``; InputError if a key has an unknown value."""
    crop, sizes = cfg.INPUT.CROP, tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    flip, sampling = cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    _require(
        crop.ENABLED and crop.TYPE == "absolute",
        f"INPUT.CROP has ENABLED {crop.ENABLED} and TYPE '{crop.TYPE}'; use True and 'absolute', as every training "
        f"image is cut to INPUT.CROP.SIZE pixels.",
    )
    are_pixels = len(crop.SIZE) == 2 and all(int(length) == length and length >= 1 for length in crop.SIZE)
    _require(are_pixels, f"INPUT.CROP.SIZE is {list(crop.SIZE)}; set it to a height and a width in whole pixels.")
    _require(flip in ("horizontal", "none"), f"INPUT.RANDOM_FLIP is '{flip}'; set it to 'horizontal' or 'none'.")
    known = sampling in ("choice", "range")
    _require(known, f"INPUT.MIN_SIZE_TRAIN_SAMPLING is '{sampling}'; set it to 'choice' or 'range'.")
    fit = len(sizes) == 2 and min(sizes) > 0 if sampling == "range" else sizes and min(sizes) >= 0
    advice = "set it to the lengths to choose from, or to two ends with MIN_SIZE_TRAIN_SAMPLING 'range'"
    _require(fit, f"INPUT.MIN_SIZE_TRAIN is {sizes}; {advice}.")
    height, width = map(int, crop.SIZE)
    return GeometrySettings(sizes, sampling, cfg.INPUT.MAX_SIZE_TRAIN, (height, width), flip == "horizontal")


def strong_view_settings(cfg: CfgNode) -> tuple[tuple[float, ...], float]:
    """Return jitter and probability of grey of :func:`.transforms.strong_view`; InputError if out of range."""
    jitter, grayscale = tuple(map(float, cfg.INPUT.STRONG_JITTER)), float(cfg.INPUT.STRONG_GRAYSCALE)
    in_range = len(jitter) == 4 and all(0 <= strength <= 1 for strength in jitter) and jitter[3] <= 0.5
    advice = "give four numbers: brightness, contrast and saturation from 0 to 1, hue from 0 to 0.5"
    _require(in_range, f"INPUT.STRONG_JITTER is {jitter}; {advice}.")
    _require(0 <= grayscale <= 1, f"INPUT.STRONG_GRAYSCALE is {grayscale}; give a probability from 0 to 1.")
    return jitter, grayscale


def check_label(
    label: np.ndarray, image_size: tuple[int, int], entry: dict, num_classes: int, ignore_value: int
) -> None:
    """Refuse a label, uint8 (H, W), of another size than its image's (h, w), or with values that are no class.

    ``entry``, the dataset dict, gives the file names.

    Raises:
        InputError: the sizes differ, or a value is neither below ``num_classes`` nor the ignore value.
    """
    file = entry["sem_seg_file_name"]
    if label.shape != tuple(image_size):
        turned = turned_by_exif(entry["file_name"], file)
        raise InputError(
            f"{file}: the label is {label.shape[1]}x{label.shape[0]} pixels, its image {entry['file_name']} "
            f"{image_size[1]}x{image_size[0]}{f' ({turned})' if turned else ''}; give both the same size."
        )
    is_outside = np.ones(256, np.uint8)
    is_outside[:num_classes] = is_outside[ignore_value] = 0
    found = cv2.LUT(label, is_outside)
    # Nearly always there are none: np.unique alone would be most of the cost of this check.
    if cv2.countNonZero(found):
        outside = first_few(np.unique(label[found > 0]))
        raise InputError(
            f"{file}: the label has values that are no class (0 to {num_classes - 1}) and not the ignore value "
            f"{ignore_value}: {outside}; correct the file, or the classes and ignore_value of its data set and "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES."
        )


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InputError(message)


def _tensor(image: np.ndarray, format: str) -> torch.Tensor:
    """uint8 (H, W, C) BGR -> contiguous (C, H, W) in ``format`` order."""
    if format == "RGB":
        image = swapped(image)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

"""Inputs that the tests of ``rc2l_d2.regions`` share: random batches, edge cases, precisions."""

import contextlib
from dataclasses import is_dataclass, replace

import numpy as np
import torch

from rc2l_d2.regions import (
    PseudoRegions,
    Regions,
    TeacherPrediction,
    confident_cross_entropy,
    pixel_contrastive,
    pseudo_regions,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    select,
    semantic_mask_consistency,
    semantic_probabilities,
    soft_dice,
    teacher_prediction,
)

SIZES = [  # images, queries, classes, channels, height, width
    (2, 5, 3, 4, 4, 5),
    (1, 3, 4, 2, 3, 3),
    (3, 2, 5, 3, 5, 2),
    (2, 4, 2, 6, 1, 7),
]
EDGE_CASES = [
    "ordinary", "no pseudo region", "no pseudo region in one image", "all pixels unconfident", "no pixel inside",
    "class that no query predicts", "all queries on one class", "all queries no object", "one-class image",
    "one class in the data set", "one query", "empty student masks", "full student masks",
    "empty pseudo masks marked present", "full pseudo mask", "zero features", "zero teacher features",
    "large logits", "large positive logits", "large negative logits",
]  # fmt: skip
# Half-precision inputs are computed under autocast, as a model's are in training.
PRECISIONS = ["float32", "bfloat16", "float16"]
FIELDS = ("class_logits", "mask_logits", "features")


def precision(name: str):
    """Return the dtype of the inputs, and the context in which the functions run."""
    dtype = getattr(torch, name)
    return dtype, contextlib.nullcontext() if name == "float32" else torch.autocast("cpu", dtype=dtype)


def random_prediction(size, seed: int, sharpness: float = 3.0, dtype=torch.float64) -> TeacherPrediction:
    images, _, classes, channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, height, width, generator=generator, dtype=torch.float64) * sharpness
    features = torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64)
    inside = torch.rand(images, height, width, generator=generator) > 0.15
    return teacher_prediction(scores.softmax(dim=1).to(dtype), features.to(dtype), inside)


def random_regions(size, seed: int, dtype=torch.float64) -> Regions:
    images, queries, classes, channels, height, width = size
    generator = torch.Generator().manual_seed(1000 + seed)
    return Regions(
        torch.randn(images, queries, classes + 1, generator=generator, dtype=torch.float64).to(dtype) * 2,
        torch.randn(images, queries, height, width, generator=generator, dtype=torch.float64).to(dtype) * 2,
        torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64).to(dtype),
    )


def cut(teacher: TeacherPrediction, threshold: float, min_area: int = 1, unit: str = "pixel") -> PseudoRegions:
    """Select by one threshold for all classes and cut the pseudo regions."""
    thresholds = torch.full((teacher.semantic_map.shape[1],), threshold, dtype=teacher.semantic_map.dtype)
    return pseudo_regions(select(teacher, thresholds, unit), min_area)


def random_case(size, seed: int, threshold: float = 0.5, dtype=torch.float64) -> tuple[Regions, PseudoRegions]:
    return random_regions(size, seed, dtype), cut(random_prediction(size, seed, dtype=dtype), threshold)


def edge_case(name: str, dtype=torch.float32) -> tuple[Regions, PseudoRegions]:
    """A batch of 2 images, 5 queries and 3 classes (unless the case is about these numbers), changed as in ``name``."""
    size = (2, 1 if name == "one query" else 5, 1 if name == "one class in the data set" else 3, 4, 6, 5)
    regions, teacher = random_regions(size, 7, dtype), random_prediction(size, 7, dtype=dtype)
    semantic, features, inside = teacher.semantic_map, teacher.features, teacher.inside

    if name == "no pseudo region in one image":
        semantic[0] = 1 / 3
    elif name == "no pixel inside":
        inside[:] = False
    elif name in ("one-class image", "full pseudo mask"):
        semantic[:] = 0
        semantic[:, 1] = 1
        inside |= name == "full pseudo mask"
    elif name == "class that no query predicts":
        regions.class_logits[:, :, 1] = -1e4
    elif name == "all queries on one class":
        regions.class_logits[:] = -1e4
        regions.class_logits[:, :, 0] = 1e4
    elif name == "all queries no object":
        regions.class_logits[:] = 0
        regions.class_logits[:, :, -1] = 1e4
    elif name in ("empty student masks", "full student masks"):
        regions.mask_logits[:] = -50 if name.startswith("empty") else 50
    elif name == "zero features":
        regions.features[:] = 0
    elif name == "zero teacher features":
        features[:] = 0
    elif name == "large logits":
        for logits in (regions.class_logits, regions.mask_logits):
            logits.copy_(1e4 * logits.sign())
    elif name in ("large positive logits", "large negative logits"):
        regions.class_logits[:] = regions.mask_logits[:] = 1e4 if "positive" in name else -1e4

    teacher = teacher_prediction(semantic, features, inside)
    threshold = 1.0 if name == "all pixels unconfident" else 0.5
    pseudo = cut(teacher, threshold, min_area=1000 if name == "no pseudo region" else 1)
    if name == "empty pseudo masks marked present":
        zeros = {key: torch.zeros_like(value) for key, value in vars(pseudo).items() if key != "teacher"}
        pseudo = replace(pseudo, **zeros | {"present": torch.ones_like(pseudo.present)})
    return regions, pseudo


def leaves(regions: Regions) -> Regions:
    """The same values as leaves that collect gradients."""
    return Regions(*(getattr(regions, name).detach().clone().requires_grad_() for name in FIELDS))


def gradients(regions: Regions) -> dict[str, torch.Tensor | None]:
    return {name: getattr(regions, name).grad for name in FIELDS}


def reached(regions: Regions) -> set[str]:
    """Names of the leaves with a non-zero gradient."""
    return {name for name, gradient in gradients(regions).items() if gradient is not None and gradient.any()}


def arrays(value) -> dict[str, np.ndarray]:
    """The tensors of a dataclass as float64 (or bool) arrays."""
    tensors = {name: x.detach() for name, x in vars(value).items() if isinstance(x, torch.Tensor)}
    return {name: (x if x.dtype == torch.bool else x.double()).numpy() for name, x in tensors.items()}


def in_double(value):
    """The same dataclass with floating-point tensors in float64."""
    if isinstance(value, torch.Tensor):
        return value.detach().double() if value.is_floating_point() else value
    return type(value)(*map(in_double, vars(value).values())) if is_dataclass(value) else value


def semantic_map(regions: Regions) -> torch.Tensor:
    return semantic_probabilities(regions.class_logits, regions.mask_logits)


# The losses of a student's regions, with the similarity or semantic map that a training step computes once.


def in_order(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    """Match query k to slot k, as class queries do, for any number of queries."""
    return torch.eye(regions.class_logits.shape[1], pseudo.present.shape[1]) * pseudo.present.unsqueeze(1)


def rmc(regions: Regions, pseudo: PseudoRegions, temperature: float = 0.1, match=in_order) -> torch.Tensor:
    similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    return region_mask_contrastive(similarity, match(regions, pseudo), pseudo, temperature)


def rfc(regions: Regions, pseudo: PseudoRegions, *args, **options) -> torch.Tensor:
    return region_feature_contrastive(semantic_map(regions), regions.features, pseudo, *args, **options)


def rcc(regions: Regions, pseudo: PseudoRegions, match=in_order) -> torch.Tensor:
    return region_class_consistency(regions.class_logits, match(regions, pseudo), pseudo)


def smc(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    return semantic_mask_consistency(semantic_map(regions), pseudo)


def pixel_consistency(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    return confident_cross_entropy(semantic_map(regions), pseudo)


def pixel_contrast(regions: Regions, pseudo: PseudoRegions, *args) -> torch.Tensor:
    """Contrast 64 sampled pixels per image, all pixels of smaller images."""
    uniform = torch.rand(pseudo.valid.flatten(1).shape, generator=torch.Generator().manual_seed(0))
    return pixel_contrastive(regions.features, pseudo.teacher, uniform, 64, *args)

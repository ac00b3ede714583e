"""Inputs that the tests of ``rc2l_d2.regions`` share: random batches, edge cases, dtypes."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace

import numpy as np
import torch

from rc2l_d2.regions.losses import (
    confident_cross_entropy,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from rc2l_d2.regions.matching import soft_dice
from rc2l_d2.regions.pseudo_labels import pseudo_regions, select
from rc2l_d2.regions.semantic import semantic_probabilities
from rc2l_d2.regions.types import PseudoRegions, Regions, TeacherView

SIZES = [  # images, queries, classes, channels, height, width
    (2, 5, 3, 4, 4, 5),
    (1, 3, 4, 2, 3, 3),
    (3, 2, 5, 3, 5, 2),
    (2, 4, 2, 6, 1, 7),
]
EDGE_CASES = [
    "ordinary",
    "no pseudo region",
    "no pseudo region in one image",
    "all pixels unconfident",
    "no pixel inside",
    "class that no query predicts",
    "all queries on one class",
    "all queries no object",
    "one-class image",
    "one class in the data set",
    "one query",
    "empty student masks",
    "full student masks",
    "empty pseudo masks marked present",
    "full pseudo mask",
    "zero features",
    "zero teacher features",
    "large logits",
    "large positive logits",
    "large negative logits",
]
PRECISIONS = ["float32", "bfloat16", "float16", "autocast bfloat16", "autocast float16"]


def random_view(size, seed: int, sharpness: float = 3.0, dtype=torch.float64) -> TeacherView:
    images, _, classes, channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, height, width, generator=generator, dtype=torch.float64) * sharpness
    features = torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64)
    inside = torch.rand(images, height, width, generator=generator) > 0.15
    return TeacherView(scores.softmax(dim=1).to(dtype), features.to(dtype), inside)


def random_regions(size, seed: int, dtype=torch.float64) -> Regions:
    images, queries, classes, channels, height, width = size
    generator = torch.Generator().manual_seed(1000 + seed)
    return Regions(
        torch.randn(images, queries, classes + 1, generator=generator, dtype=torch.float64).to(dtype) * 2,
        torch.randn(images, queries, height, width, generator=generator, dtype=torch.float64).to(dtype) * 2,
        torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64).to(dtype),
    )


def random_case(size, seed: int, threshold: float = 0.5, dtype=torch.float64) -> tuple[Regions, PseudoRegions]:
    view = random_view(size, seed, dtype=dtype)
    thresholds = torch.full((size[2],), threshold, dtype=dtype)
    return random_regions(size, seed, dtype), pseudo_regions(select(view, thresholds, "pixel"), 1)


def edge_case(name: str, dtype=torch.float32) -> tuple[Regions, PseudoRegions]:
    """A batch with 2 images, 5 queries and 3 classes (unless the case is about these numbers), changed as named."""
    size = (2, 5, 3, 4, 6, 5)
    if name == "one class in the data set":
        size = (2, 5, 1, 4, 6, 5)
    elif name == "one query":
        size = (2, 1, 3, 4, 6, 5)
    regions = random_regions(size, 7, dtype)
    view = random_view(size, 7, dtype=dtype)
    thresholds = torch.full((size[2],), 0.5, dtype=dtype)
    min_area = 1

    if name == "no pseudo region":
        min_area = 1000
    elif name == "no pseudo region in one image":
        view = replace(view, probabilities=view.probabilities.clone())
        view.probabilities[0] = 1 / 3
    elif name == "all pixels unconfident":
        thresholds = torch.ones_like(thresholds)
    elif name == "no pixel inside":
        view = replace(view, inside=torch.zeros_like(view.inside))
    elif name == "one-class image":
        view = replace(view, probabilities=torch.zeros_like(view.probabilities))
        view.probabilities[:, 1] = 1
    elif name == "full pseudo mask":
        view = replace(view, probabilities=torch.zeros_like(view.probabilities), inside=torch.ones_like(view.inside))
        view.probabilities[:, 2] = 1
    elif name == "class that no query predicts":
        regions.class_logits[:, :, 1] = -1e4
    elif name == "all queries on one class":
        regions.class_logits[:] = -1e4
        regions.class_logits[:, :, 0] = 1e4
    elif name == "all queries no object":
        regions.class_logits[:] = 0
        regions.class_logits[:, :, -1] = 1e4
    elif name == "empty student masks":
        regions.mask_logits[:] = -50
    elif name == "full student masks":
        regions.mask_logits[:] = 50
    elif name == "zero features":
        regions.features[:] = 0
    elif name == "zero teacher features":
        view = replace(view, features=torch.zeros_like(view.features))
    elif name == "large logits":
        regions = replace(
            regions, class_logits=1e4 * regions.class_logits.sign(), mask_logits=1e4 * regions.mask_logits.sign()
        )
    elif name in ("large positive logits", "large negative logits"):
        value = 1e4 if name == "large positive logits" else -1e4
        regions.class_logits[:] = value
        regions.mask_logits[:] = value

    pseudo = pseudo_regions(select(view, thresholds, "pixel"), min_area)
    if name == "empty pseudo masks marked present":
        zeros = {field.name: torch.zeros_like(getattr(pseudo, field.name)) for field in fields(pseudo)}
        pseudo = PseudoRegions(**zeros | {"present": torch.ones_like(pseudo.present)})
    return regions, pseudo


def precision(name: str):
    """The dtype of the inputs, and the context in which the functions run."""
    if not name.startswith("autocast"):
        return getattr(torch, name), contextlib.nullcontext()
    return torch.float32, torch.autocast("cpu", dtype=getattr(torch, name.removeprefix("autocast ")))


def leaves(regions: Regions) -> Regions:
    """The same values as leaves that collect gradients."""
    tensors = (regions.class_logits, regions.mask_logits, regions.features)
    return Regions(*(tensor.detach().clone().requires_grad_() for tensor in tensors))


def gradients(regions: Regions) -> dict[str, torch.Tensor | None]:
    return {name: getattr(regions, name).grad for name in ("class_logits", "mask_logits", "features")}


def arrays(value) -> dict[str, np.ndarray]:
    """The tensors of a dataclass as float64 (or bool) arrays."""
    tensors = {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        name: tensor.detach().numpy() if tensor.dtype == torch.bool else tensor.detach().double().numpy()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def semantic_map(regions: Regions) -> torch.Tensor:
    return semantic_probabilities(regions.class_logits, regions.mask_logits)


# The losses of a student's regions, with what a training step computes once and hands to several of them.


def rmc(regions: Regions, pseudo: PseudoRegions, *args, **options) -> torch.Tensor:
    similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    return region_mask_contrastive(similarity, regions.class_logits, pseudo, *args, **options)


def rfc(regions: Regions, pseudo: PseudoRegions, *args, **options) -> torch.Tensor:
    return region_feature_contrastive(semantic_map(regions), regions.features, pseudo, *args, **options)


def rcc(regions: Regions, pseudo: PseudoRegions, *args, **options) -> torch.Tensor:
    similarity = soft_dice(regions.mask_logits, pseudo.masks, pseudo.valid)
    return region_class_consistency(similarity, regions.class_logits, pseudo, *args, **options)


def smc(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    return semantic_mask_consistency(semantic_map(regions), pseudo)


def pixel_consistency(regions: Regions, pseudo: PseudoRegions) -> torch.Tensor:
    return confident_cross_entropy(semantic_map(regions), pseudo)

"""The method stays on the device: fixed shapes, no copy to the host, one graph; and it stands on torch alone."""

from __future__ import annotations

import ast
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from method_cases import leaves, random_regions, random_view
from torch._subclasses import FakeTensorMode

import rc2l_d2.regions
from rc2l_d2.regions import pixel_contrastive
from rc2l_d2.regions.losses import (
    confident_cross_entropy,
    region_class_consistency,
    region_feature_contrastive,
    region_mask_contrastive,
    semantic_mask_consistency,
)
from rc2l_d2.regions.matching import soft_dice
from rc2l_d2.regions.mixing import classmix_mask, cutmix_mask, mix
from rc2l_d2.regions.pseudo_labels import (
    class_confidence_sums,
    class_thresholds,
    pseudo_regions,
    select,
    update_class_confidence,
)
from rc2l_d2.regions.semantic import semantic_probabilities
from rc2l_d2.regions.statistics import agreement_counts, coverage_counts, quality_counts
from rc2l_d2.regions.types import Regions, Selection, TeacherView

SIZE = (2, 5, 3, 4, 6, 8)
PACKAGES = [Path(rc2l_d2.regions.__file__).parent]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
HOST_COPIES = {"item", "cpu", "tolist", "numpy", "nonzero", "argwhere", "masked_select", "unique"}


def chain(classes, masks, features, teacher_classes, teacher_masks, teacher_features, inside, images, confidence, draw):
    """The unlabelled half of a step: weak view, selection, mixing, pseudo regions, all losses, counts for the log."""
    view = TeacherView(semantic_probabilities(teacher_classes, teacher_masks), teacher_features, inside)
    confidence = update_class_confidence(confidence, *class_confidence_sums(view))
    views = [
        select(view, class_thresholds(confidence, Selection(unit, 0.3, 0.5)), unit) for unit in ("region", "pixel")
    ]
    _, view = mix(images, views[1], classmix_mask(view, draw[:, 4:]))
    by_position = pseudo_regions(view, 2)
    images, view = mix(images, views[0], cutmix_mask(draw[:, :4], view.inside.shape[-2:]))
    pseudo = pseudo_regions(view, 2)
    semantic_map = semantic_probabilities(classes, masks)
    similarity = soft_dice(masks, pseudo.masks, pseudo.valid)
    losses = (
        region_mask_contrastive(similarity, classes, pseudo),
        region_feature_contrastive(semantic_map, features, pseudo),
        region_feature_contrastive(
            semantic_map, features, pseudo, keys=pseudo.features[:1], keys_present=pseudo.present[:1]
        ),
        region_class_consistency(similarity, classes, pseudo),
        semantic_mask_consistency(semantic_map, pseudo),
        confident_cross_entropy(semantic_map, by_position),
        pixel_contrastive(features, view, None),
        pixel_contrastive(features, view, images[:, 0, ::4, ::4].flatten(1), samples=7),
    )
    labels = (images[:, 1, ::4, ::4] * 5).to(torch.uint8)
    counts = coverage_counts(view, pseudo) | agreement_counts(semantic_map, pseudo) | quality_counts(pseudo, labels)
    return sum(losses), images, torch.cat([confidence, *(count.flatten() for count in counts.values())])


def inputs() -> list[torch.Tensor]:
    student, teacher = (leaves(random_regions(SIZE, seed, torch.float32)) for seed in (0, 1))
    view = random_view(SIZE, 0, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    names = [field.name for field in fields(Regions)][:3]
    return [
        *(getattr(student, name) for name in names),
        *(getattr(teacher, name).detach() for name in names),
        view.inside,
        torch.rand(SIZE[0], 3, SIZE[4] * 4, SIZE[5] * 4, generator=generator),
        torch.full((SIZE[2],), 0.7),
        torch.rand(SIZE[0], 4 + SIZE[2], generator=generator),
    ]


@pytest.mark.parametrize("autocast", [False, True])
def test_no_value_is_read_on_the_host(autocast):
    """Fake tensors have shapes and no values: any step that depends on a value raises."""
    with FakeTensorMode() as mode:
        tensors = [mode.from_tensor(tensor) for tensor in inputs()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, images, _ = chain(*tensors)
        loss.backward()
        assert loss.shape == () and images.shape == tensors[7].shape
        assert all(tensor.grad is not None for tensor in tensors[:3])


@pytest.mark.parametrize("autocast", [False, True])
def test_one_graph(autocast):
    torch._dynamo.reset()
    compiled = torch.compile(chain, fullgraph=True, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, got = chain(*inputs()), compiled(*inputs())
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other)
    tensors = inputs()
    compiled(*tensors)[0].backward()
    assert all(tensor.grad.isfinite().all() for tensor in tensors[:3])


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_source_stands_on_torch_alone_and_never_leaves_the_device(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            to_regions = source.parent.name == "pixels" and (node.module or "").startswith("regions")
            assert node.level <= (2 if to_regions else 1), f"line {node.lineno} reaches out of {source.parent.name}/"
            modules = [] if node.level else [node.module]
        else:
            modules = []
        for module in modules:
            root = module.split(".")[0]
            assert root == "torch" or root in sys.stdlib_module_names, f"line {node.lineno} imports {module}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in HOST_COPIES, f"line {node.lineno}: .{node.attr}"
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "where":
            assert len(node.args) + len(node.keywords) > 1, f"line {node.lineno}: where with one argument is nonzero"


def test_there_are_sources_to_check():
    names = {f"{p.parent.name}/{p.name}" for p in SOURCES}
    of_regions = ("semantic", "pseudo_labels", "matching", "losses", "mixing", "statistics")
    assert {*(f"regions/{name}.py" for name in of_regions), "pixels/losses.py"} <= names

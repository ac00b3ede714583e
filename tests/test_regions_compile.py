"""The method stays on the device: fixed shapes, no copy to the host, one graph."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import pytest
import torch
from method_cases import FIELDS, leaves, random_prediction, random_regions
from step_cases import batch_after_burn_in
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeCopyMode, FakeTensorMode

import rc2l_d2
from rc2l_d2 import regions
from rc2l_d2.engine import SemiSupervisedTrainer
from rc2l_d2.engine.solver import build_optimizer
from rc2l_d2.host import HOST

SIZE = (2, 3, 3, 4, 6, 8)
PACKAGE = Path(rc2l_d2.__file__).parent
# Hungarian matching runs on the host.
SOURCES = sorted([*(PACKAGE / "regions").glob("*.py"), *(PACKAGE / "modeling").glob("*.py")])
SOURCES.remove(PACKAGE / "modeling" / "hungarian.py")
HOST_COPIES = {"item", "cpu", "tolist", "numpy", "nonzero", "argwhere", "masked_select", "unique"}


def chain(classes, masks, features, teacher_classes, teacher_masks, teacher_features, inside, images, kappa, uniform):
    """The unlabelled half of a step: teacher, selection, mixing, pseudo regions, all losses, counts for the log."""
    teacher = regions.teacher_prediction(
        regions.semantic_probabilities(teacher_classes, teacher_masks), teacher_features, inside
    )
    labeler, by_pixel = (
        regions.PseudoLabeler(len(kappa), regions.Selection(unit, 0.3, 0.5, 2)) for unit in ("region", "pixel")
    )
    labeler.kappa = by_pixel.kappa = kappa
    labeler.observe(teacher)
    chosen = by_pixel.select(teacher)
    partners = regions.neighbours(images, chosen)
    _, mixed = regions.mix(images, chosen, regions.classmix_mask(partners[1], uniform[:, 4:]), *partners)
    pixels = by_pixel.regions(mixed)
    chosen, mask = labeler.select(teacher), regions.cutmix_mask(uniform[:, :4], inside.shape[-2:])
    images, mixed = regions.mix(images, chosen, mask, *regions.neighbours(images, chosen))
    pseudo = labeler.regions(mixed)
    semantic_map = regions.semantic_probabilities(classes, masks)
    similarity = regions.soft_dice(masks, pseudo.masks, pseudo.valid)
    match = regions.match_by_class(pseudo.present)
    losses = (
        regions.region_mask_contrastive(similarity, match, pseudo),
        regions.region_feature_contrastive(semantic_map, features, pseudo),
        regions.region_class_consistency(classes, match, pseudo),
        regions.semantic_mask_consistency(semantic_map, pseudo),
        regions.confident_cross_entropy(semantic_map, pixels),
        regions.pixel_contrastive(features, mixed, None),
        regions.pixel_contrastive(features, mixed, images[:, 0, ::4, ::4].flatten(1), samples=7),
    )
    labels = (images[:, 1, ::4, ::4] * 5).to(torch.uint8)
    counts = (
        regions.coverage_counts(pseudo)
        | regions.agreement_counts(semantic_map, pseudo)
        | regions.quality_counts(pseudo, labels)
    )
    return sum(losses), images, torch.cat([labeler.kappa, *(count.flatten() for count in counts.values())])


def inputs() -> list[torch.Tensor]:
    student, teacher = (leaves(random_regions(SIZE, seed, torch.float32)) for seed in (0, 1))
    generator = torch.Generator().manual_seed(0)
    return [
        *(getattr(student, name) for name in FIELDS),
        *(getattr(teacher, name).detach() for name in FIELDS),
        random_prediction(SIZE, 0).inside,
        torch.rand(SIZE[0], 3, SIZE[4] * 4, SIZE[5] * 4, generator=generator),
        torch.full((SIZE[2],), 0.7),
        torch.rand(SIZE[0], 4 + SIZE[2], generator=generator),
    ]


@pytest.mark.parametrize("autocast", [False, True])
def test_one_graph(autocast):
    """Tracing runs on tensors without values: a step that depends on a value would break the graph."""
    torch._dynamo.reset()
    compiled = torch.compile(chain, fullgraph=True, backend="eager")
    tensors = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, got = chain(*inputs()), compiled(*tensors)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other)
    got[0].backward()
    assert all(tensor.grad.isfinite().all() for tensor in tensors[:3])


@pytest.mark.parametrize("architecture", ["RC2L", "PixelContrast", "PerPixelSegmentor", "UniMatch"])
def test_models_and_all_losses_of_a_step_are_one_graph(make_trainer, architecture):
    """Without random numbers, which the trainer seeds at each step and tracing cannot."""
    fixed = "MODEL.PIXEL.CONTRAST_SAMPLES 0".split()
    trainer = make_trainer("MODEL.META_ARCHITECTURE", architecture, *fixed)
    student, labeler = trainer.model, trainer.teacher.labeler

    def losses(images, labels, strong, weak, inside, uniform):
        supervised = len(images)
        if labeler is None:
            return student.supervised_losses(student(images), labels)
        teacher = trainer.teacher.predict_batch(weak, inside)
        labeler.observe(teacher)
        mask = regions.cutmix_mask(uniform, teacher.inside.shape[-2:])
        teacher = labeler.select(teacher)
        strong, teacher = regions.mix(strong, teacher, mask, *regions.neighbours(strong, teacher))
        predicted = student(torch.cat([images, strong]), supervised=supervised)
        of_strong = predicted.images(supervised)
        return student.supervised_losses(predicted.images(0, supervised), labels) | student.unlabeled_losses(
            of_strong, student.semantic_map(of_strong), labeler.regions(teacher)
        )

    generator = torch.Generator().manual_seed(0)
    images, strong, weak = torch.randn(3, 2, 3, 64, 64, generator=generator)
    labels = torch.randint(0, 9, (2, 64, 64), generator=generator).masked_fill(images[:, 0] > 1, 255)
    arguments = images, labels, strong, weak, weak[:, 0] < 2, torch.rand(2, 4, generator=generator)
    torch._dynamo.reset()
    expected = losses(*arguments)
    if labeler is not None:
        labeler.kappa = torch.full_like(labeler.kappa, 0.7)
    got = torch.compile(losses, fullgraph=True, backend="eager")(*arguments)
    torch.testing.assert_close(got, expected)
    sum(got.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters() if p.requires_grad)


@pytest.mark.skipif(HOST == "detectron2", reason="Detectron2's ImageList computes sizes with tensors on the host")
@pytest.mark.parametrize("architecture, precision", [
    ("RC2L", "float32"), ("RC2L", "mixed"), ("PixelContrast", "float32"), ("PerPixelSegmentor", "float32"),
])  # fmt: skip
def test_a_whole_step_reads_no_value_on_the_host(make_trainer, architecture, precision):
    """Student, teacher, all losses, backward pass, update and EMA; only the log waits for the device.

    Fake tensors have shapes and no values: an operation that needs a value on the host raises.
    """
    trainer = make_trainer(
        "MODEL.META_ARCHITECTURE", architecture, "SOLVER.AMP.ENABLED", str(precision == "mixed"),
        "SOLVER.CLIP_GRADIENTS.ENABLED", "True", "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True",
        "SOLVER.CHECKPOINT_PERIOD", "20",
    )  # fmt: skip
    batch = batch_after_burn_in(trainer)
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        model, teacher, batch = copy.deepcopy((trainer.model, trainer.teacher, batch))
    with mode:
        step = SemiSupervisedTrainer(trainer.cfg, model, [batch], build_optimizer(trainer.cfg, model), teacher)
        step.iter = trainer.cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS
        step.run_step()
        teacher.update(model)
        with pytest.raises(DataDependentOutputException):
            step.log.write()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_source_has_no_copy_to_the_host(source):
    """Also ``.cpu()``, which fake tensors of the CPU cannot show."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in HOST_COPIES, f"line {node.lineno}: .{node.attr}"
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "where":
            assert len(node.args) + len(node.keywords) > 1, f"line {node.lineno}: where with one argument is nonzero"

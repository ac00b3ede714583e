"""The semi-supervised step: its inputs, weights and gradients, and what a non-finite step leaves behind."""

import os
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from step_cases import batch_after_burn_in, watched_step

from rc2l_d2.engine import load_config
from rc2l_d2.engine.data_parallel import data_parallel, has_unread_stages
from rc2l_d2.engine.setup import build_model_or_explain
from rc2l_d2.errors import InputError


@pytest.fixture
def losses_of_each_step(monkeypatch):
    """The logged losses of each step."""
    seen = []

    def add(self, iteration, losses, *others):
        seen.append({name: loss.detach() for name, loss in losses.items()})

    monkeypatch.setattr("rc2l_d2.engine.step_log.StepLog.add", add)
    monkeypatch.setattr("rc2l_d2.engine.step_log.StepLog.write", lambda self: None)
    return seen


def test_region_losses_start_after_burn_in_ramp_up_and_reach_the_student_alone(make_trainer, losses_of_each_step):
    options = ("SOLVER.MAX_ITER", "5", "MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS", "4", "MODEL.RC2L.LOSS_WEIGHT", "2.0",
               "MODEL.RC2L.RCC_WEIGHT", "0.0", "DATASETS.TEST", "()")  # fmt: skip
    trainer = make_trainer(*options)
    unweighted, function = [], trainer.model.unlabeled_losses
    trainer.model.unlabeled_losses = lambda *args: unweighted.append(function(*args)) or unweighted[-1]
    trainer.train()
    supervised = {f"loss_{name}{suffix}" for name in ("ce", "mask", "dice") for suffix in ("", "_0")}
    assert [set(losses) - supervised for losses in losses_of_each_step] == [
        set(), set(), *[{"loss_rmc", "loss_rfc", "loss_smc"}] * 3
    ]  # fmt: skip
    for ramp, losses, plain in zip((0.25, 0.5, 0.75), losses_of_each_step[2:], unweighted, strict=True):
        assert "loss_rcc" in plain, "a weight of zero drops the loss"
        for name, weight in (("loss_rmc", 0.2), ("loss_rfc", 0.1), ("loss_smc", 1.0)):
            torch.testing.assert_close(losses[name], ramp * 2 * weight * plain[name].detach())
    assert all(torch.isfinite(loss) for losses in losses_of_each_step for loss in losses.values())
    assert all(p.grad is None for p in trainer.teacher.model.parameters())
    assert all(p.grad is not None for p in trainer.model.parameters())


def test_the_teacher_predicts_for_weak_views_and_the_student_for_mixed_strong_ones(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4")
    labeled, unlabeled = batch = batch_after_burn_in(trainer)
    assert len(labeled) == 2 and len(unlabeled) == 4
    seen, predict = [], trainer.teacher.predict_batch
    trainer.teacher.predict_batch = lambda images, inside: seen.append(images) or predict(images, inside)
    step = watched_step(trainer, batch)
    preprocess = trainer.model.preprocess
    assert torch.equal(seen[0], preprocess([sample["image"] for sample in unlabeled]).tensor)
    assert torch.equal(step.images[:2], preprocess([sample["image"] for sample in labeled]).tensor)
    strong, plain = step.images[2:], preprocess([sample["strong"][0] for sample in unlabeled]).tensor
    assert strong.shape == (4, 3, 64, 64) and step.pseudo.masks.shape == (4, 8, 16, 16)
    # Every pixel is the image's own or its partner's, and CutMix pasted some of the partner's into each image.
    own, partner = strong == plain, strong == plain.roll(1, dims=0)
    assert (own | partner).all()
    assert ((~own).flatten(1).any(dim=1)).all()
    assert torch.equal(step.pseudo.valid, step.pseudo.masks.sum(dim=1) > 0)
    assert len(step.regions.mask_logits) == len(step.semantic_map) == 4
    labeler = trainer.teacher.labeler
    assert (labeler.kappa != 0.7).any() and labeler.selection == trainer.model.selection
    assert labeler.selection.min_area == 4


def test_further_views_are_mixed_on_their_own_and_the_dropped_view_is_the_weak_one(make_trainer):
    trainer = make_trainer(
        "SOLVER.IMS_PER_BATCH_UNLABELED", "4", "MODEL.SEMI_SUPERVISED.STRONG_VIEWS", "2",
        "MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT", "0.5",
    )  # fmt: skip
    _, unlabeled = batch = batch_after_burn_in(trainer)
    head, maps = trainer.model.sem_seg_head, []
    handle = head.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    step = watched_step(trainer, batch)
    handle.remove()
    preprocess = trainer.model.preprocess
    views = [preprocess([sample["strong"][view] for sample in unlabeled]).tensor for view in range(2)]
    plain, (_, strong, weak) = torch.cat(views), step.images.split([2, 8, 4])
    assert (views[0] != views[1]).any() and torch.equal(weak, preprocess([s["image"] for s in unlabeled]).tensor)
    own = strong == plain
    assert (own | (strong == plain.roll(1, dims=0))).all()
    assert (own[:4] != own[4:]).flatten(1).any(dim=1).all(), "each view has its own box"
    # The pseudo regions follow the views: those of the weak view are not mixed.
    teacher = trainer.teacher
    expected = teacher.labeler.regions(teacher.labeler.select(teacher.predict(unlabeled)))
    assert torch.equal(step.pseudo.masks[8:], expected.masks) and len(step.pseudo.masks) == 12
    for x in maps[0].values():
        empty = (x == 0).flatten(2).all(dim=2).float().mean(dim=1)
        assert (empty[:10] < 0.1).all() and (empty[10:] > 0.2).all() and (empty[10:] < 0.8).all()


def test_padding_is_no_pseudo_label(make_trainer):
    """Of crops beyond the image, and of the batch up to a multiple of 32."""
    trainer = make_trainer("INPUT.CROP.SIZE", "(72,80)", "MODEL.SEMI_SUPERVISED.MIX", "none")
    labeled, unlabeled = batch = batch_after_burn_in(trainer)
    inside = torch.zeros(2, 96, 96, dtype=torch.bool)
    for place, sample in zip(inside, unlabeled, strict=True):
        place[:72, :80] = sample["inside"]
    inside = inside[:, ::4, ::4]
    step = watched_step(trainer, batch)
    teacher = step.pseudo.teacher
    assert torch.equal(teacher.inside, inside) and not inside.all() and inside.any()
    assert not (step.pseudo.valid & ~inside).any() and step.pseudo.valid.any()
    expected = torch.full((8,), 0.7)
    for label in range(8):
        if len(values := teacher.confidence[inside & (teacher.label == label)]):
            expected[label] = 0.98 * 0.7 + 0.02 * values.mean()
    torch.testing.assert_close(trainer.teacher.labeler.kappa, expected)


def test_thresholds_follow_the_confidence_of_the_same_step(make_trainer):
    trainer = make_trainer(
        "MODEL.RC2L.SELECTION", "pixel", "MODEL.RC2L.CONFIDENCE_THRESHOLD", "0.0", "MODEL.RC2L.CLASS_THRESHOLD_RATIO",
        "0.95", "MODEL.SEMI_SUPERVISED.MIX", "none",
    )  # fmt: skip
    batch, labeler = batch_after_burn_in(trainer), trainer.teacher.labeler
    # With this kappa no pixel is confident; with that after the step, which is smaller, the surest one is.
    labeler.kappa.fill_(1.0001 * float(trainer.teacher.predict(batch[1]).confidence.max()) / 0.95)
    assert not labeler.select(trainer.teacher.predict(batch[1])).valid.any()
    assert watched_step(trainer, batch).pseudo.teacher.valid.any()


def test_features_of_pasted_regions_are_the_teachers_of_their_image(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4", "MODEL.SEMI_SUPERVISED.MIX", "labeled")
    with torch.no_grad():
        for parameter in trainer.teacher.model.parameters():
            parameter.mul_(1.1)
    labeled, unlabeled = batch = batch_after_burn_in(trainer)
    own = trainer.model.preprocess([sample["strong"][0] for sample in unlabeled]).tensor
    step = watched_step(trainer, batch)
    with torch.no_grad():
        expected = trainer.teacher.model.regions(step.images[:2]).features
    for index in (1, 3):
        pasted = (step.images[2 + index] != own[index]).any(dim=0)[::4, ::4]
        found = step.pseudo.teacher.features[index][:, pasted]
        torch.testing.assert_close(found, expected[index // 2][:, pasted])
        assert pasted.any()


@pytest.mark.parametrize("method", ["RC2L", "PixelConsistency"])
def test_features_that_no_loss_reads_are_not_computed(make_trainer, monkeypatch, method):
    """Losses and gradients are those of a step that computes them."""
    trainer = make_trainer(
        "MODEL.META_ARCHITECTURE", method, "MODEL.RC2L.RFC_WEIGHT", "0.0", "MODEL.SEMI_SUPERVISED.MIX", "labeled"
    )
    batch, student, found = batch_after_burn_in(trainer), trainer.model, []
    for read in (False, True):
        assert student.reads_teacher_features == read
        with patch.object(trainer.teacher.model, "regions", wraps=trainer.teacher.model.regions) as passes:
            step = watched_step(trainer, batch)
        found.append((passes.call_count, step.losses, [p.grad.clone() for p in student.parameters()]))
        monkeypatch.setattr(type(student), "reads_teacher_features", True)
    (without, *losses), (computed, *expected) = found
    assert computed == without + 1
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


def test_regions_of_labelled_images_are_pasted_into_every_second_image(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4", "MODEL.SEMI_SUPERVISED.MIX", "labeled")
    labeled, unlabeled = batch = batch_after_burn_in(trainer)
    preprocess, teacher = trainer.model.preprocess, trainer.teacher
    own = preprocess([sample["strong"][0] for sample in unlabeled]).tensor
    images = preprocess([sample["image"] for sample in labeled]).tensor
    labels = torch.stack([sample["sem_seg"] for sample in labeled])[:, 2::4, 2::4]
    predicted = teacher.predict(unlabeled)
    for iteration, pasted in ((3, (1, 3)), (4, (0, 2))):
        step = watched_step(trainer, batch, iteration)
        strong = step.images[2:]
        for index in range(4):
            source = images[index // 2] if index in pasted else own[index - 1]
            from_partner = (strong[index] != own[index]).any(dim=0)
            assert from_partner.any() and torch.equal(strong[index][:, from_partner], source[:, from_partner])
        for index in pasted:
            truth = labels[index // 2]
            moved = (strong[index] != own[index]).any(dim=0)[2::4, 2::4]
            kept = step.pseudo.masks[index].argmax(dim=0)
            classes = truth[moved].unique()
            assert len(classes) == -(-len(truth[truth != 255].unique()) // 2), "half of the label's classes"
            assert torch.equal(kept[moved & step.pseudo.valid[index]], truth[moved & step.pseudo.valid[index]].long())
            rest = ~moved & step.pseudo.valid[index]
            assert torch.equal(kept[rest], predicted.label[index][rest])


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "labeled"])
def test_mixing_depends_on_its_seed_alone(make_trainer, kind):
    trainer = make_trainer("MODEL.SEMI_SUPERVISED.MIX", kind)
    labeled, unlabeled = batch_after_burn_in(trainer)
    images = trainer.model.preprocess([sample["image"] for sample in labeled]).tensor
    labels = trainer.model.preprocess_labels([sample["sem_seg"] for sample in labeled])
    prediction = trainer.teacher.predict(unlabeled)
    prediction = replace(prediction, label=torch.randint_like(prediction.label, 8))

    def mixed(seed: int, of_torch: int) -> torch.Tensor:
        torch.manual_seed(of_torch)
        return trainer._trainer.views(unlabeled, prediction, images, labels, 7, seed)[0]

    assert torch.equal(mixed(3, 1), mixed(3, 2)) and not torch.equal(mixed(3, 1), mixed(4, 1))


def test_mixed_precision_trains(make_trainer, losses_of_each_step):
    make_trainer("SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()").train()
    assert all(torch.isfinite(loss) for losses in losses_of_each_step for loss in losses.values())
    assert "loss_rmc" in losses_of_each_step[-1]


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_a_skipped_first_update_leaves_nothing_behind(make_trainer, optimizer):
    step, other = (make_trainer("SOLVER.OPTIMIZER", optimizer)._trainer for _ in range(2))
    for trainer, gradients in ((step, (float("nan"), 1.0, 2.0)), (other, (1.0, 2.0))):
        for gradient in gradients:
            trainer.optimize(gradient * sum(parameter.sum() for parameter in trainer.model.parameters()))
    assert all(torch.equal(*pair) for pair in zip(step.model.parameters(), other.model.parameters(), strict=True))


def test_a_resumed_run_keeps_its_random_seed_and_its_learning_rate(make_trainer, logged):
    options = ("SOLVER.MAX_ITER", "2", "SEED", "-1", "DATASETS.TEST", "()", "SOLVER.REFERENCE_IMS_PER_BATCH", "4")
    first = make_trainer(*options)
    first.train()
    assert (
        "INFO",
        "The learning rate is 0.00025: SOLVER.BASE_LR 0.0005 is for 4 labelled images a step "
        "(SOLVER.REFERENCE_IMS_PER_BATCH) and SOLVER.IMS_PER_BATCH is 2; a reference of 0 turns this off.",
    ) in logged
    logged.clear()
    other = make_trainer(*options, "SOLVER.IMS_PER_BATCH", "4")
    assert other.seed != first.seed
    other.resume_or_load(resume=True)
    assert other.seed == first.seed
    assert other.data_loader.loader.dataset.seed == first.data_loader.loader.dataset.seed == first.seed
    (warning,) = [message for level, message in logged if level == "WARNING" and "learning rate" in message]
    assert "learning rate of its checkpoint, 0.00025, not of the configuration, 0.0005" in warning
    rates = {group["initial_lr"] for group in other.optimizer.param_groups}
    assert rates == {0.00025, 2 * 0.00025}  # The class probe learns faster.
    logged.clear()
    make_trainer(*options).resume_or_load(resume=True)
    assert not [message for _, message in logged if "learning rate of its checkpoint" in message]
    decayed = make_trainer(*options, "SOLVER.WEIGHT_DECAY", "0.5")
    decayed.resume_or_load(resume=True)
    assert {group["weight_decay"] for group in decayed.optimizer.param_groups} == {0.0, 0.5}
    assert decayed.optimizer.state  # of the checkpoint


def test_ranks_that_found_other_checkpoints_do_not_train(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr("rc2l_d2.engine.trainer.comm.all_gather", lambda start: [start + 4, start])
    with pytest.raises(InputError, match=r"checkpoints of different iterations in OUTPUT_DIR .* \(4, 0\); give all"):
        trainer.resume_or_load(resume=True)


def test_synchronised_norms_on_cpu_ranks_are_refused(monkeypatch, tiny_options):
    monkeypatch.setattr("rc2l_d2.engine.data_parallel.comm.get_world_size", lambda: 2)
    with pytest.raises(InputError, match="SyncBN averages over GPUs alone"):
        cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "MODEL.RESNETS.NORM", "SyncBN"])
        data_parallel(cfg, build_model_or_explain(cfg))


@pytest.mark.parametrize("features", ["res2 res3 res4 res5", "res2 res5", "res2 res3 res4"])
@pytest.mark.parametrize(("architecture", "matching"), [
    ("RegionSegmentor", "class"), ("RegionSegmentor", "hungarian"), ("PerPixelSegmentor", "hungarian"),
])  # fmt: skip
def test_stages_without_a_gradient_are_known(tiny_options, features, architecture, matching):
    names = tuple(features.split())
    options = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.MASK_FORMER.MATCHING", matching]
    read = names[-1] if architecture == "RegionSegmentor" else "res5"  # A per-pixel head has no transformer.
    options += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", names, "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", read]
    options += ["MODEL.RESNETS.OUT_FEATURES", ("res2", "res3", "res4", "res5")]
    cfg = load_config("configs/toy/supervised_R18.yaml", [*tiny_options, *options])
    model = build_model_or_explain(cfg).train()
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    sum(model([{"image": image, "sem_seg": image[0] % 8}] * 2).values()).backward()
    unread = any(parameter.grad is None for parameter in model.backbone.parameters())
    assert has_unread_stages(cfg, model) == unread == ("res5" not in features)


@pytest.mark.parametrize("optimizer, clipped", [("ADAMW", "True"), ("SGD", "False")])
def test_a_non_finite_gradient_changes_no_weight_and_stops_the_run(make_trainer, optimizer, clipped):
    trainer = make_trainer(
        "SOLVER.OPTIMIZER", optimizer, "SOLVER.CLIP_GRADIENTS.ENABLED", clipped, "SOLVER.MAX_ITER", "30",
        "SOLVER.CHECKPOINT_PERIOD", "2",
    )  # fmt: skip
    supervised, weights = trainer.model.supervised_losses, []

    def nan_in_the_third_step(*args):
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
        losses = supervised(*args)
        return {**losses, "loss_ce": losses["loss_ce"] * (float("nan") if len(weights) == 3 else 1.0)}

    trainer.model.supervised_losses = nan_in_the_third_step
    with pytest.raises(FloatingPointError, match=r"iteration 2: .* 0: {'loss_ce': nan}, images .*\.jpg"):
        trainer.train()
    assert len(weights) == 4, "raised before the next checkpoint, which is not written"
    assert all(torch.equal(*pair) for pair in zip(weights[2], weights[3], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(weights[1], weights[2], strict=True) if pair[0].dim() > 3)
    names = sorted(os.path.basename(path) for path in trainer.checkpointer.get_all_checkpoint_files())
    assert names == ["model_0000001.pth"]


def test_an_allowed_non_finite_step_leaves_nothing_behind_and_is_counted(make_trainer, logged):
    options = ["SOLVER.MAX_ITER", "5", "SOLVER.MAX_BAD_STEPS", "1", "DATASETS.TEST", "()"]
    trainer = make_trainer(*options)
    states = []

    def nan_in_the_third_step(module, images):
        states.append([*map(torch.clone, [*module.parameters(), *filter(torch.is_floating_point, module.buffers())])])
        return images[0] * (float("nan") if len(states) == 3 else 1.0)

    trainer.model.backbone.register_forward_pre_hook(nan_in_the_third_step)
    trainer.train()
    assert [message for level, message in logged if level == "WARNING" and "at iteration 2" in message]
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in trainer.model.backbone.modules())
    assert all(torch.equal(*pair) for pair in zip(states[2], states[3], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(states[3], states[4], strict=True) if pair[0].dim() > 3)
    for model in (trainer.model, trainer.teacher.model):
        assert all(value.isfinite().all() for value in model.state_dict().values())

    resumed = make_trainer(*options)
    resumed.resume_or_load(resume=True)
    assert resumed._trainer.log.bad_steps == 1

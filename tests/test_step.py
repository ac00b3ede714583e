"""The semi-supervised step: what goes in when, and what gets a gradient."""

import copy
import os

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeCopyMode, FakeTensorMode

from rc2l_d2.engine import RC2LTrainer, SemiSupervisedTrainer, load_config
from rc2l_d2.engine.solver import build_optimizer
from rc2l_d2.errors import InputError
from rc2l_d2.host import HOST, get_event_storage


@pytest.fixture
def make_trainer(tiny_options):
    def make(*options: str) -> RC2LTrainer:
        torch.manual_seed(0)
        overrides = [*tiny_options, *options]
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", overrides))
        trainer.resume_or_load(resume=False)
        return trainer

    return make


@pytest.fixture
def losses_of_each_step(monkeypatch):
    """The loss dictionaries of all steps, caught where they go to the log."""
    seen = []

    def keep(self, iteration, losses, gradient, data_time, files):
        seen.append({name: loss.detach() for name, loss in losses.items()})
        get_event_storage().put_scalar("seen", len(seen))

    monkeypatch.setattr("rc2l_d2.engine.step_log.StepLog.add", keep)
    return seen


def test_region_losses_start_after_burn_in_and_ramp_up(make_trainer, losses_of_each_step):
    trainer = make_trainer("SOLVER.MAX_ITER", "5", "MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS", "4")
    ramps = []
    forward = trainer.model.unlabeled_losses

    def watch(*args):
        ramps.append(trainer._trainer.ramp())
        return forward(*args)

    trainer.model.unlabeled_losses = watch
    trainer.train()
    has_region_losses = ["loss_smc" in losses for losses in losses_of_each_step]
    assert has_region_losses == [False, False, True, True, True]
    assert ramps == [0.25, 0.5, 0.75]
    assert all(torch.isfinite(loss) for losses in losses_of_each_step for loss in losses.values())


def test_one_seed_gives_one_loss_stream(make_trainer, losses_of_each_step):
    for _ in range(2):
        make_trainer("SOLVER.MAX_ITER", "4").train()
    first, second = losses_of_each_step[:4], losses_of_each_step[4:]
    assert len(first) == len(second) == 4
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_gradient_reaches_the_teacher_and_the_student_has_one(make_trainer):
    trainer = make_trainer("SOLVER.MAX_ITER", "3")
    trainer.train()
    assert all(p.grad is None for p in trainer.teacher.model.parameters())
    assert all(p.grad is not None for p in trainer.model.parameters())


def test_the_teacher_sees_weak_views_and_the_student_mixed_strong_ones(make_trainer):
    trainer = make_trainer("SOLVER.IMS_PER_BATCH_UNLABELED", "4")
    step = trainer._trainer
    labeled, unlabeled = next(iter(trainer.data_loader))
    assert len(labeled) == 2 and len(unlabeled) == 4
    strong, pseudo, _ = step.teach(unlabeled)
    assert strong.shape == (4, 3, 64, 64) and pseudo.masks.shape == (4, 8, 16, 16)
    plain = trainer.model.preprocess([sample["strong"] for sample in unlabeled]).tensor
    # Every pixel is the image's own or its partner's, and CutMix pasted some of the partner's into each image.
    own, partner = strong == plain, strong == plain.roll(1, dims=0)
    assert (own | partner).all()
    assert ((~own).flatten(1).any(dim=1)).all()
    assert torch.equal(pseudo.valid, pseudo.masks.sum(dim=1) > 0)
    assert (trainer.teacher.class_confidence != 0.7).any()


def test_mixed_precision_trains(make_trainer, losses_of_each_step):
    make_trainer("SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER", "4").train()
    assert all(torch.isfinite(loss) for losses in losses_of_each_step for loss in losses.values())
    assert "loss_rmc" in losses_of_each_step[-1]


@pytest.mark.parametrize(
    "options",
    [("MODEL.SEMI_SUPERVISED.MIX", "mixup"), ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")],
)
def test_unknown_values_are_told(make_trainer, options):
    with pytest.raises(InputError, match=f"{options[0]}.*{options[1]}"):
        make_trainer(*options)


@pytest.mark.skipif(
    HOST == "detectron2", reason="its ImageList computes sizes with host tensors, which fake ones cannot be told from"
)
@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("architecture", ["RC2L", "PixelConsistency", "PixelContrast"])
def test_no_value_is_read_on_the_host_between_two_writes_of_the_log(make_trainer, monkeypatch, architecture, precision):
    """Fake tensors have shapes and no values: a step that waited for one, as a GPU would be waited for, would raise."""
    # The supervised matching is MaskFormer's and does copy its costs; here every layer pairs three queries without it.
    monkeypatch.setattr(
        "rc2l_d2.modeling.set_criterion.hungarian_match",
        lambda cost, present: torch.zeros(len(cost), 3, 3, dtype=torch.long),
    )
    trainer = make_trainer(
        "MODEL.META_ARCHITECTURE", architecture, "SOLVER.AMP.ENABLED", str(precision == "mixed"),
        "SOLVER.CLIP_GRADIENTS.ENABLED", "True", "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True",
        "SOLVER.CHECKPOINT_PERIOD", "20",
    )  # fmt: skip
    batch = next(iter(trainer.data_loader))
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


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_an_update_that_is_left_out_in_the_first_step_leaves_nothing_behind(make_trainer, optimizer):
    step, other = (make_trainer("SOLVER.OPTIMIZER", optimizer)._trainer for _ in range(2))
    for trainer, values in ((step, (float("nan"), 1.0, 2.0)), (other, (1.0, 2.0))):
        for value in values:
            for parameter in trainer.model.parameters():
                parameter.grad = torch.full_like(parameter, value)
            trainer.update()
    assert all(torch.equal(*pair) for pair in zip(step.model.parameters(), other.model.parameters(), strict=True))


def test_a_seed_that_was_drawn_is_the_resumed_runs_too(make_trainer):
    first = make_trainer("SEED", "-1", "DATASETS.TEST", "()")
    first.train()
    other = make_trainer("SEED", "-1", "DATASETS.TEST", "()")
    assert other._trainer.seed != first._trainer.seed
    other.resume_or_load(resume=True)
    assert other._trainer.seed == first._trainer.seed
    assert other.data_loader.loader.dataset.seed == first.data_loader.loader.dataset.seed == first._trainer.seed


def test_the_learning_rate_follows_the_batch_and_a_resumed_run_keeps_its_own(make_trainer, told):
    short = ("SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()", "SOLVER.REFERENCE_IMS_PER_BATCH", "4")
    make_trainer(*short).train()
    assert (
        "INFO",
        "The learning rate is 0.00025: SOLVER.BASE_LR 0.0005 is for 4 labelled images a step "
        "(SOLVER.REFERENCE_IMS_PER_BATCH) and SOLVER.IMS_PER_BATCH is 2; a reference of 0 turns this off.",
    ) in told
    told.clear()
    make_trainer(*short).resume_or_load(resume=True)
    assert not [message for level, message in told if level == "WARNING"]
    other = make_trainer(*short, "SOLVER.IMS_PER_BATCH", "4")
    other.resume_or_load(resume=True)
    (warning,) = [message for level, message in told if level == "WARNING"]
    assert "checkpoint's learning rate, 0.00025, not with this configuration's, 0.0005" in warning
    assert {group["initial_lr"] for group in other.optimizer.param_groups} == {0.00025}


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
@pytest.mark.parametrize("clipped", ["True", "False"])
def test_a_gradient_that_is_not_finite_moves_no_weight_and_stops_the_run(make_trainer, optimizer, clipped):
    trainer = make_trainer(
        "SOLVER.OPTIMIZER", optimizer, "SOLVER.CLIP_GRADIENTS.ENABLED", clipped, "SOLVER.MAX_ITER", "30",
        "SOLVER.CHECKPOINT_PERIOD", "5",
    )  # fmt: skip
    supervised, weights = trainer.model.supervised_losses, []

    def once_not_a_number(*args):
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
        losses = supervised(*args)
        return {**losses, "loss_ce": losses["loss_ce"] * (float("nan") if len(weights) == 7 else 1.0)}

    trainer.model.supervised_losses = once_not_a_number
    with pytest.raises(FloatingPointError, match=r"iteration 6: rank 0: {'loss_ce': nan}, images .*\.jpg"):
        trainer.train()
    assert len(weights) == 10, "told before the next checkpoint, which stays away"
    assert all(torch.equal(*pair) for pair in zip(weights[6], weights[7], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(weights[5], weights[6], strict=True) if pair[0].dim() > 3)
    names = sorted(os.path.basename(path) for path in trainer.checkpointer.get_all_checkpoint_files())
    assert names == ["model_0000004.pth"]


def test_a_bad_step_that_may_be_leaves_nothing_behind_and_is_remembered(make_trainer, told):
    options = ["SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "5", "SOLVER.MAX_BAD_STEPS", "1"]
    trainer = make_trainer(*options)
    states = []

    def once_not_a_number(module, images):
        states.append([*map(torch.clone, [*module.parameters(), *filter(torch.is_floating_point, module.buffers())])])
        return images[0] * (float("nan") if len(states) == 7 else 1.0)

    trainer.model.backbone.register_forward_pre_hook(once_not_a_number)
    trainer.train()
    assert [message for _, message in told if message.startswith("Non-finite losses at iteration 6: rank 0: ")]
    assert any(module.running_mean is not None for module in trainer.model.backbone.modules()
               if isinstance(module, torch.nn.BatchNorm2d))  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(states[6], states[7], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(states[7], states[8], strict=True) if pair[0].dim() > 3)
    for model in (trainer.model, trainer.teacher.model):
        assert all(value.isfinite().all() for value in model.state_dict().values())

    resumed = make_trainer(*options)
    resumed.resume_or_load(resume=True)
    assert resumed._trainer.log.bad_steps == 1

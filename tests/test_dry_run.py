"""Plan of a run before it starts."""

import pytest

from rc2l_d2.engine import describe_plan, load_config


@pytest.fixture
def plan_of(tiny_options):
    def plan(*options: str) -> list[str]:
        cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options])
        return [" ".join(line.split()) for line in describe_plan(cfg).splitlines()]

    return plan


def test_schedule_and_epochs(plan_of):
    # 6 labelled and 18 unlabelled images, two of each per step.
    lines = plan_of("SOLVER.MAX_ITER", "100", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "10")
    assert {"33.3 epochs of labelled images", "10.0 epochs of unlabelled images after burn-in"} <= set(lines)
    assert any(line.startswith("schedule 100 iterations") and line.endswith("evaluation at the end") for line in lines)
    lines = plan_of("DATASETS.TRAIN", "('gone',)", "SOLVER.REFERENCE_IMS_PER_BATCH", "4")
    assert any("learning rate 0.00025 (0.0005 for 4 images a step), warm-up 2" in line for line in lines)
    assert "0.4 epochs of unlabelled images after burn-in" in lines and any("MISSING" in line for line in lines)


def test_losses_and_selection(plan_of):
    assert "pseudo labels selected by region; mixing cutmix; 1 strong view of an image" in plan_of()
    keys = "MODEL.SEMI_SUPERVISED.STRONG_VIEWS", "2", "MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT", "0.5"
    lines = plan_of("MODEL.META_ARCHITECTURE", "UniMatch", *keys)
    assert "loss_strong x 0.5, loss_dropped x 0.5, on the last" in lines
    assert any(line.endswith("2 strong views of an image, and its weak view without 0.5 of the feature channels")
               for line in lines)  # fmt: skip
    assert "loss_strong x 0.5, on the last" in plan_of("MODEL.META_ARCHITECTURE", "UniMatch")
    lines = "\n".join(plan_of("MODEL.META_ARCHITECTURE", "PixelContrast"))
    assert "PixelContrast, ResNet-18" in lines and "pseudo labels selected by pixel" in lines
    assert "loss_pixel_consistency x 1, loss_pixel_contrast x 0.1, on the last" in lines
    assert not any("pseudo labels" in line for line in plan_of("MODEL.META_ARCHITECTURE", "RegionSegmentor"))


def test_output(plan_of, tmp_path):
    out = tmp_path / "out"
    lines = plan_of("SOLVER.CHECKPOINT_KEEP", "2", "SEED", "-1")
    assert {f"output {out}", "checkpoint every 3 iterations, the newest 2 are kept", "seed random"} <= set(lines)
    out.mkdir()
    (out / "last_checkpoint").write_text("model_0000002.pth")
    assert f"output {out} (holds a run: continue with --resume, or use another folder)" in plan_of()


@pytest.mark.parametrize("options, queries, losses", [
    ((), "8 queries, 8 classes", "losses loss_ce x 1, loss_mask x 1, loss_dice x 1"),
    (("MODEL.MASK_FORMER.MATCHING", "hungarian"), "10 queries, 2 decoder layers, 8 classes",
     "losses loss_ce x 1, loss_mask x 20, loss_dice x 1, on 2 decoder"),
    (("MODEL.META_ARCHITECTURE", "PerPixelSegmentor"), "parameters, 8 classes", "losses loss_sem_seg x 1"),
])  # fmt: skip
def test_queries_and_supervised_losses(plan_of, options, queries, losses):
    lines = plan_of(*options)
    assert any(queries in line for line in lines) and any(line.startswith(losses) for line in lines)
    assert "PerPixelSegmentor" not in options or losses in lines

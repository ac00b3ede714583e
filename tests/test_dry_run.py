"""The plan of a run: what a user wants to know before hours of training."""

from __future__ import annotations

import os

import pytest

from rc2l_d2.engine import RC2LTrainer, describe_plan, load_config


@pytest.fixture
def plan_of(tiny_options):
    def plan(*options: str) -> list[str]:
        cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, *options])
        return [" ".join(line.split()) for line in describe_plan(cfg).splitlines()]

    return plan


def test_what_a_step_takes_and_how_often_images_are_seen(plan_of):
    # 6 labelled and 18 unlabelled images, two of each a step.
    lines = plan_of("SOLVER.MAX_ITER", "100", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "10")
    assert "learns from each labelled image 33 times, each unlabelled one 10 times after burn-in" in lines
    assert "crop 64 x 64 pixels" in lines and "tested at the images' own size" in lines
    assert any(line.startswith("schedule 100 iterations") and line.endswith("evaluation at the end") for line in lines)
    lines = plan_of("SOLVER.IMS_PER_PASS", "2", "SOLVER.REFERENCE_IMS_PER_BATCH", "4", "INPUT.MIN_SIZE_TEST", "48",
                    "TEST.SLIDING_WINDOW.ENABLED", "True", "TEST.SLIDING_WINDOW.CROP_SIZE", "[32,40]",
                    "TEST.SLIDING_WINDOW.STRIDE", "[16,20]")  # fmt: skip
    assert "crop 64 x 64 pixels, 2 through the model at a time" in lines
    assert "tested shortest side 48 pixels, by windows of 32 x 40 pixels, 16 x 20 apart" in lines
    assert any("learning rate 0.00025 (0.0005 for 4 images a step), warm-up 2" in line for line in lines)
    gone = plan_of("DATASETS.TRAIN", "('gone',)")
    assert "learns from each unlabelled one 0.4 times after burn-in" in gone and any("MISSING" in line for line in gone)


def test_what_is_learned_from(plan_of):
    chosen = "on pseudo labels chosen by region, where the confidence is above 0.9 times the mean of the class"
    lines = plan_of("MODEL.RC2L.CLASS_THRESHOLD_RATIO", "0.9", "MODEL.RC2L.CONFIDENCE_THRESHOLD", "0.0")
    assert f"{chosen}; mixing cutmix" in lines
    lines = plan_of("MODEL.META_ARCHITECTURE", "PixelConsistency", "MODEL.PIXEL.CLASS_THRESHOLD_RATIO", "0.95")
    assert any("chosen by pixel, where the confidence is above 0.95 times" in line and "and above 0.1" in line
               for line in lines)  # fmt: skip
    assert not any("pseudo labels" in line for line in plan_of("MODEL.META_ARCHITECTURE", "RegionSegmentor"))


def test_what_is_written(plan_of, tiny_options, tmp_path):
    lines = plan_of("SOLVER.CHECKPOINT_KEEP", "2", "VIS_PERIOD", "50")
    (checkpoint,) = [line for line in lines if line.startswith("checkpoint ")]
    assert checkpoint.startswith("checkpoint every 3 iterations, about ")
    assert checkpoint.endswith(" MB each, the newest 2 are kept; pictures for TensorBoard every 50")
    out = str(tmp_path / "out")
    assert f"output {out}" in lines
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "SOLVER.MAX_ITER", "3"]))
    trainer.resume_or_load(resume=False)
    trainer.train()
    told = int(checkpoint.split("about ")[1].split()[0]) * 2**20
    assert told == pytest.approx(os.path.getsize(f"{out}/model_final.pth"), rel=0.05)
    assert f"output {out} (holds a run: go on with --resume, or name another folder)" in plan_of()

"""The configuration to start from: sizes that fit the pictures, a schedule that fits their number."""

from __future__ import annotations

import pytest

from rc2l_d2.engine.starting_point import CPU, GPU, Sizes, cpu_seconds, starting_config, usual_iterations


@pytest.mark.parametrize(
    ("size", "machine", "short_edge", "crop"),
    [
        ((360, 480), CPU, 120, (128, 160)),  # a third of CamVid, as in configs/camvid
        ((480, 360), CPU, 120, (160, 128)),
        ((1080, 1920), CPU, 104, (96, 192)),
        ((96, 96), CPU, 96, (96, 96)),  # smaller than the machine could take: not enlarged
        ((40, 48), CPU, 40, (32, 64)),
        ((1080, 1920), GPU, 336, (320, 608)),
        ((360, 480), GPU, 360, (352, 480)),
    ],
)
def test_crops_have_the_shape_of_the_pictures_and_what_pixels_the_machine_can_take(size, machine, short_edge, crop):
    sizes = Sizes.fitting([size] * 3, machine)
    assert sizes.short_edge == short_edge
    assert sizes.crop == crop
    assert sizes.crop[0] * sizes.crop[1] <= 1.35 * machine.pixels
    assert sizes.long_edge >= max(size) / min(size) * short_edge


def test_a_wanted_short_edge_is_kept_and_shapes_of_both_kinds_give_squares():
    assert Sizes.fitting([(360, 480)], CPU, 240) == Sizes(240, 720, (256, 320))
    assert Sizes.fitting([(360, 480)] * 3 + [(480, 360)] * 2, CPU).crop == (128, 128)
    # A strip of 1:10 is tested as long as it is.
    assert Sizes.fitting([(100, 1000)], CPU).long_edge >= 10 * Sizes.fitting([(100, 1000)], CPU).short_edge


def test_schedules_follow_the_number_of_pictures():
    assert [usual_iterations(CPU, count) for count in (20, 367, 5050)] == [1500, 2300, 3000]
    assert [usual_iterations(GPU, count) for count in (20, 1800, 5050)] == [4000, 5600, 8000]
    config = starting_config(CPU, Sizes(120, 360, (128, 160)), 11, 3000)
    assert config["MODEL.SEMI_SUPERVISED.BURN_IN_ITERS"] == config["TEST.EVAL_PERIOD"] == 600
    assert config["MODEL.SEMI_SUPERVISED.EMA_DECAY"] == 0.99 and config["SOLVER.WARMUP_ITERS"] == 150
    assert starting_config(CPU, Sizes(64, 192, (64, 64)), 50, 10)["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] == 58


def test_the_time_is_that_of_the_steps_that_were_timed():
    small = starting_config(CPU, Sizes(64, 192, (64, 64)), 8, 1500)
    assert cpu_seconds(small, 0.0) == pytest.approx(300 * 0.083 + 1200 * 0.139, rel=0.01)
    config = starting_config(CPU, Sizes(120, 360, (128, 160)), 11, 3000)
    assert cpu_seconds(config, 0.0) == pytest.approx(600 * 0.27 + 2400 * 0.47, rel=0.01)
    assert cpu_seconds(config, 0.1) - cpu_seconds(config, 0.0) == pytest.approx(3000 * 8 * 0.1)


def test_weights_bring_their_depth_and_a_gentler_backbone():
    config = starting_config(CPU, Sizes(120, 360, (128, 160)), 11, 3000, "R-50.pkl", 50)
    assert config["MODEL.RESNETS.DEPTH"] == 50 and config["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 256
    assert config["MODEL.RESNETS.NORM"] == "FrozenBN" and config["SOLVER.BACKBONE_MULTIPLIER"] == 0.1

"""The configuration to start from: sizes that fit the images, a schedule that fits their number."""

import pytest

from rc2l_d2.engine.starting_point import CPU, GPU, Pretrained, Sizes, starting_config, usual_iterations


@pytest.mark.parametrize(
    ("size", "machine", "short_edge", "crop"),
    [
        ((360, 480), CPU, 120, (128, 160)),  # a third of CamVid, as in configs/camvid
        ((480, 360), CPU, 120, (160, 128)),
        ((1080, 1920), CPU, 104, (96, 192)),
        ((96, 96), CPU, 96, (96, 96)),  # smaller than the limit: not enlarged
        ((40, 48), CPU, 40, (32, 64)),
        ((100, 1000), CPU, 44, (32, 448)),  # a strip of 1:10 is tested at its full length
        ((1080, 1920), GPU, 336, (320, 608)),
        ((360, 480), GPU, 360, (352, 480)),
    ],
)
def test_crops_have_the_images_shape_and_at_most_the_machines_pixels(size, machine, short_edge, crop):
    sizes = Sizes.fitting([size] * 3, machine)
    assert (sizes.short_edge, sizes.crop) == (short_edge, crop)
    assert sizes.crop[0] * sizes.crop[1] <= 1.35 * machine.pixels
    assert sizes.long_edge >= max(size) / min(size) * short_edge


def test_a_given_short_edge_is_kept_and_both_orientations_give_square_crops():
    assert Sizes.fitting([(360, 480)], CPU, 240) == Sizes(240, 720, (256, 320))
    assert Sizes.fitting([(360, 480)] * 3 + [(480, 360)] * 2, CPU).crop == (128, 128)


def test_the_schedule_follows_the_number_of_images():
    assert [usual_iterations(CPU, count) for count in (20, 367, 5050)] == [1500, 2300, 3000]
    assert [usual_iterations(GPU, count) for count in (20, 1800, 5050)] == [4000, 5600, 8000]
    config = starting_config(CPU, Sizes(120, 360, (128, 160)), 11, 3000, Pretrained())
    schedule = {"BURN_IN_ITERS": 600, "RAMP_UP_ITERS": 600, "EMA_DECAY": 0.99}
    assert config["MODEL"]["SEMI_SUPERVISED"] == {"MIX": "labeled", **schedule}
    assert config["TEST"]["EVAL_PERIOD"] == 600 and config["SOLVER"]["WARMUP_ITERS"] == 150


@pytest.mark.parametrize(("machine", "depth", "images"), [(CPU, 18, 4), (GPU, 50, 8)])
def test_weights_set_the_depth_and_a_lower_rate_of_the_backbone(machine, depth, images):
    sizes = Sizes(120, 360, (128, 160))
    starts = Pretrained(), Pretrained("R.pkl", 34)
    plain, pretrained = (starting_config(machine, sizes, 11, 3000, start) for start in starts)
    assert plain["MODEL"]["RESNETS"]["DEPTH"] == depth and plain["SOLVER"]["BACKBONE_MULTIPLIER"] == 1.0
    assert plain["SOLVER"]["IMS_PER_BATCH"] == images == machine.images / 2
    resnet = pretrained["MODEL"]["RESNETS"]
    assert (resnet["DEPTH"], resnet["RES2_OUT_CHANNELS"], resnet["NORM"]) == (34, 64, "FrozenBN")
    assert pretrained["SOLVER"]["BACKBONE_MULTIPLIER"] == 0.1 and pretrained["MODEL"]["WEIGHTS"] == "R.pkl"


@pytest.mark.parametrize(("machine", "width"), [(CPU, 128), (GPU, 256)])
def test_a_pretrained_backbone_of_timm_gets_a_pyramid_of_at_least_128_channels(machine, width):
    start = Pretrained(backbone="tf_efficientnet_lite0")
    config = starting_config(machine, Sizes(120, 360, (128, 160)), 11, 3000, start)
    model, sizes = config["MODEL"], config["INPUT"]
    assert (sizes["MIN_SIZE_TRAIN"], sizes["MIN_SIZE_TEST"], sizes["MAX_SIZE_TEST"]) == ([120, 200], 200, 600)
    head = model["SEM_SEG_HEAD"]
    assert (head["PIXEL_DECODER_NAME"], head["CONVS_DIM"], head["MASK_DIM"]) == ("FPN", width, width)
    assert head["IN_FEATURES"] == ["res2", "res3", "res4", "res5"]
    assert model["TIMM"] == {"NAME": "tf_efficientnet_lite0", "PRETRAINED": True, "CHECKPOINT": "", "FREEZE_STAGES": -1}

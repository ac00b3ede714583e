"""Sliding windows, scales and mirroring, against plain loops and the model itself."""

import numpy as np
import pytest
import torch
from conftest import TINY
from data_files import small_config, write_image
from torch import nn
from torch.nn import functional as F

from rc2l_d2.data import TestMapper
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import Predictor, check_test_settings
from rc2l_d2.evaluation.inference import window_starts, windows_at_once
from rc2l_d2.host import build_model


class Local(nn.Module):
    """Two scores that depend on all of the input, so that the choice of windows matters; records the inputs' sizes."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, batched_inputs):
        assert not self.training
        self.batches.append([tuple(sample["image"].shape[-2:]) for sample in batched_inputs])
        results = []
        for sample in batched_inputs:
            image = sample["image"].float() / 255
            scores = torch.stack([image[0] - image.mean(), image[1] * image[2].max()])
            wanted = (sample.get("height", image.shape[1]), sample.get("width", image.shape[2]))
            results.append({"sem_seg": F.interpolate(scores[None], size=wanted, mode="bilinear")[0]})
        return results


def config(*overrides):
    cfg = small_config()
    cfg.merge_from_list(overrides)
    return cfg


def sliding(crop, stride, *overrides):
    window = "TEST.SLIDING_WINDOW"
    return config(f"{window}.ENABLED", True, f"{window}.CROP_SIZE", crop, f"{window}.STRIDE", stride, *overrides)


def sample(height, width, seed=0, wanted=None):
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.uint8))
    wanted = wanted or (height, width)
    return {"image": image, "height": wanted[0], "width": wanted[1]}


@pytest.mark.parametrize(
    "length, window, stride, starts",
    [
        (10, 10, 3, [0]), (10, 4, 3, [0, 3, 6]), (10, 4, 4, [0, 4, 6]), (11, 4, 3, [0, 3, 6, 7]), (3, 1, 1, [0, 1, 2]),
        (2048, 1024, 683, [0, 683, 1024]), (1024, 512, 341, [0, 341, 512]),
    ],
)  # fmt: skip
def test_windows_start_a_stride_apart_and_end_flush(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts
    assert set(range(length)) == {start + pixel for start in starts for pixel in range(window)}


@pytest.mark.parametrize("side, device, expected", [
    (64, "cpu", 9), (256, "cpu", 4), (512, "cpu", 1), (1024, "cpu", 1), (64, "cuda", 9), (1024, "cuda:1", 9),
])  # fmt: skip
def test_a_cpu_takes_few_large_windows_at_once(side, device, expected):
    assert windows_at_once((side, side), device) == expected
    assert windows_at_once((side, 2 * side), device) == (expected if expected in (1, 9) else expected // 2)


@pytest.mark.parametrize(
    "size, crop, stride", [((9, 14), (4, 6), (3, 4)), ((8, 8), (5, 20), (5, 1)), ((7, 5), (3, 2), (1, 2))]
)
def test_overlapping_windows_are_averaged(size, crop, stride):
    model, test = Local().eval(), sample(*size)
    scores = Predictor(sliding(crop, stride), model)([test])[0]["sem_seg"]
    total, count = np.zeros((2, *size)), np.zeros(size)
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    for top in range(size[0] - height + 1):
        for left in range(size[1] - width + 1):
            if (top % stride[0] and top != size[0] - height) or (left % stride[1] and left != size[1] - width):
                continue
            window = test["image"][:, top : top + height, left : left + width].double().numpy() / 255
            part = np.stack([window[0] - window.mean(), window[1] * window[2].max()])
            total[:, top : top + height, left : left + width] += part
            count[top : top + height, left : left + width] += 1
    assert count.min() >= 1
    np.testing.assert_allclose(scores.numpy(), total / count, rtol=0, atol=1e-6)
    windows = [len(batch) for batch in model.batches]
    assert {shape for batch in model.batches for shape in batch} == {(height, width)}, "windows of one size"
    assert max(windows) <= 9 and len(windows) == -(-sum(windows) // 9), "in full batches"


@pytest.fixture(scope="module")
def region_segmentor():
    torch.manual_seed(0)
    return build_model(load_config("configs/toy/supervised_R18.yaml", TINY)).eval()


@pytest.mark.parametrize("crop", [(40, 56), (64, 200)])
@pytest.mark.parametrize("wanted", [(40, 56), (75, 90), (20, 28)])
def test_a_window_that_covers_the_image_gives_exactly_the_whole_image_result(region_segmentor, crop, wanted):
    # 40 x 56 is no multiple of 32, so the model pads.
    test = sample(40, 56, wanted=wanted)
    for model in (region_segmentor, Local().eval()):
        with torch.no_grad():
            whole = model([test])[0]["sem_seg"]
        windowed = Predictor(sliding(crop, (20, 20)), model)([test])[0]["sem_seg"]
        assert windowed.shape[1:] == wanted and torch.equal(windowed, whole)


def test_without_windows_and_augmentation_it_is_the_model(region_segmentor):
    tests = [sample(40, 56), sample(48, 32, wanted=(60, 40))]
    with torch.no_grad():
        expected = region_segmentor(tests)
    for got, wanted in zip(Predictor(config(), region_segmentor)(tests), expected, strict=True):
        assert torch.equal(got["sem_seg"], wanted["sem_seg"]) and not got["sem_seg"].requires_grad
    predictor = Predictor(config(), Local().train())
    assert predictor.training and not predictor.eval().model.training, "it has the mode of its model"


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("window", [True, False])
def test_scales_are_averaged_at_the_original_size(tmp_path, flip, window):
    write_image(tmp_path / "x.png", np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    overrides = (
        "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (10, 0, 40), "TEST.AUG.MAX_SIZE", 45, "TEST.AUG.FLIP", flip,
        "INPUT.MIN_SIZE_TEST", 16,
    )  # fmt: skip
    cfg = sliding((12, 12), (8, 8), *overrides) if window else config(*overrides)
    test = TestMapper(cfg)({"file_name": str(tmp_path / "x.png")})
    assert test["image"].shape == (3, 16, 24) and (test["height"], test["width"]) == (20, 30)
    assert [tuple(image.shape) for image in test["scales"]] == [(3, 10, 15), (3, 20, 30), (3, 30, 45)]
    model = Local().eval()
    scores = Predictor(cfg, model)([test])[0]["sem_seg"]

    cfg.TEST.AUG.ENABLED = False
    single = Predictor(cfg, model)  # windows as before, one scale
    views = [single([{**test, "image": image}])[0]["sem_seg"] for image in test["scales"]]
    if flip:
        views += [single([{**test, "image": image.flip(-1)}])[0]["sem_seg"].flip(-1) for image in test["scales"]]
    expected = torch.stack(views).double().mean(dim=0)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "key, value",
    [
        ("TEST.SLIDING_WINDOW.CROP_SIZE", [0, 16]), ("TEST.SLIDING_WINDOW.CROP_SIZE", [16]),
        ("TEST.SLIDING_WINDOW.STRIDE", [8, -1]), ("TEST.SLIDING_WINDOW.STRIDE", [8, 7.5]),
        ("TEST.SLIDING_WINDOW.STRIDE", [8, 513]), ("TEST.AUG.MIN_SIZES", ()), ("TEST.AUG.MIN_SIZES", (100, -1)),
        ("TEST.AUG.MIN_SIZES", (100, 20.5)),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused_if_they_are_used(key, value):
    cfg = config()
    cfg.merge_from_list([key, value])
    check_test_settings(cfg)
    cfg.TEST.SLIDING_WINDOW.ENABLED = cfg.TEST.AUG.ENABLED = True
    with pytest.raises(InputError, match=f"^{key} is ") as caught:
        Predictor(cfg, Local())
    assert "\n" not in str(caught.value) and str(caught.value).count(". ") == 0

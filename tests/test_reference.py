"""Names, shapes and numbers of the region predictor against those of the official MaskFormer.

The reference files stay outside the checkout: their folder is the environment variable RC2L_REFERENCE, or
``../shared/reference`` beside the checkout.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import rc2l_d2.modeling  # noqa: F401  (registers the architectures)
from rc2l_d2.config import add_rc2l_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_model, get_cfg
from rc2l_d2.regions.semantic import semantic_scores

REFERENCE = Path(os.environ.get("RC2L_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"no reference values at {REFERENCE}: set RC2L_REFERENCE to their folder"
)


def config(**changes):
    cfg = add_rc2l_config(get_cfg())
    cfg.MODEL.META_ARCHITECTURE = "RegionSegmentor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
    cfg.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 21
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"
    for key, value in changes.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


def small_config(**changes):
    small = dict(
        RESNETS__DEPTH=18, RESNETS__RES2_OUT_CHANNELS=64, SEM_SEG_HEAD__NUM_CLASSES=3, SEM_SEG_HEAD__CONVS_DIM=32,
        SEM_SEG_HEAD__MASK_DIM=32, MASK_FORMER__HIDDEN_DIM=64, MASK_FORMER__DIM_FEEDFORWARD=64,
        MASK_FORMER__DEC_LAYERS=2, MASK_FORMER__NUM_OBJECT_QUERIES=8,
    )  # fmt: skip
    return config(**small | changes)


def fill(model: torch.nn.Module) -> None:
    """The reference's filling of the weights: noise seeded by the name of each entry."""
    for name, entry in model.state_dict().items():
        if name.startswith("criterion.") or not entry.is_floating_point():
            continue
        x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(entry.numel()).reshape(entry.shape)
        if name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif name.endswith(("running_mean", "bias")):
            x = 0.1 * x
        elif name.endswith("query_embed.weight"):
            pass
        elif entry.dim() == 1:
            x = 1 + 0.1 * x
        else:
            x = x / np.sqrt(entry[0].numel())
        entry.copy_(torch.from_numpy(x))


@pytest.fixture(scope="module")
def model():
    return build_model(config()).eval()


@needs_reference
def test_names_and_shapes_equal_the_reference(model):
    lines = (REFERENCE / "maskformer_r50_voc21_state_dict.txt").read_text().splitlines()
    expected = dict(re.fullmatch(r"(\S+) \((.*)\)", line).groups() for line in lines if line.strip())
    expected = {name: tuple(int(n) for n in shape.split(",") if n.strip()) for name, shape in expected.items()}
    assert {name: tuple(entry.shape) for name, entry in model.state_dict().items()} == expected


@needs_reference
def test_numbers_equal_the_reference(model):
    expected = np.load(REFERENCE / "maskformer_r50_voc21.npz", allow_pickle=False)
    fill(model)
    i = np.arange(2 * 3 * 96 * 128, dtype=np.float64)
    pixels = (127.5 + 127.5 * np.sin(0.0137 * i + 3 * np.sin(0.00091 * i))).reshape(2, 3, 96, 128)
    pixels = torch.from_numpy(pixels.astype(np.float32))
    with torch.no_grad():
        images = model.preprocess(list(pixels))
        maps = model.backbone(images.tensor)
        regions = model.regions(images.tensor)
        scores = torch.stack([result["sem_seg"] for result in model([{"image": pixel} for pixel in pixels])])
    got = {
        "pred_logits": regions.class_logits,
        "pred_masks": regions.mask_logits[:, ::10],
        "res5": maps["res5"][:, ::32],
        "sem_seg": scores[..., ::4, ::4],
    }
    deviation = {
        name: float(np.abs(value.numpy() - expected[name]).max() / np.abs(expected[name]).max())
        for name, value in got.items()
    }
    print("largest deviation relative to the largest value:", deviation)
    assert set(expected.files) == set(got)
    assert max(deviation.values()) < 1e-4, deviation


# --- the model as a whole, which needs no reference values ------------------------------------------------------------


def batch(count: int, size: tuple[int, int], labelled: bool = True) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        sample = {"image": torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)}
        if labelled:
            sample["sem_seg"] = torch.randint(3, size, dtype=torch.uint8, generator=generator)
        samples.append(sample)
    return samples


@pytest.mark.parametrize("autocast", [False, True])
def test_training_losses_reach_every_trained_parameter(autocast):
    torch.manual_seed(0)
    model = build_model(small_config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = model(batch(2, (64, 64)))
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0")}
    assert all(loss.dtype is torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_evaluation_gives_the_wanted_size_and_padding_is_cut():
    torch.manual_seed(0)
    model = build_model(small_config()).eval()
    first, second = batch(2, (50, 70), labelled=False)
    second.update(height=25, width=41)
    with torch.no_grad():
        results = model([first, second])
        plain = model([first])
        regions = model.regions(model.preprocess([first["image"]]).tensor)
    assert results[0]["sem_seg"].shape == (3, 50, 70) and results[1]["sem_seg"].shape == (3, 25, 41)
    torch.testing.assert_close(results[0]["sem_seg"], plain[0]["sem_seg"], atol=1e-5, rtol=1e-4)
    large = torch.nn.functional.interpolate(regions.mask_logits, size=(64, 96), mode="bilinear", align_corners=False)
    scores = semantic_scores(regions.class_logits, large)[0, :, :50, :70]
    torch.testing.assert_close(plain[0]["sem_seg"], scores)


def test_images_of_different_sizes_are_padded_with_the_ignore_value():
    model = build_model(small_config()).train()
    samples = batch(1, (40, 64)) + batch(1, (64, 50))
    labels = model.preprocess_labels([sample["sem_seg"] for sample in samples])
    assert labels.shape == (2, 64, 64)
    assert (labels[0, 40:] == 255).all() and (labels[1, :, 50:] == 255).all()
    assert all(loss.isfinite() for loss in model(samples).values())


@pytest.mark.parametrize("key, value", [
    ("SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3"]), ("MASK_FORMER.TRANSFORMER_IN_FEATURE", "res9"),
    ("SEM_SEG_HEAD.CONVS_DIM", 40),
])  # fmt: skip
def test_impossible_configurations_are_refused_with_their_key(key, value):
    with pytest.raises(InputError, match=f"MODEL.{key}"):
        build_model(small_config(**{key.replace(".", "__"): value}))

"""Names, shapes and numbers of the region predictor against those of the official MaskFormer.

The reference files stay outside the checkout: their folder is the environment variable RC2L_REFERENCE, or
``../shared/reference`` beside the checkout.
"""

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import build_model
from rc2l_d2.regions.semantic import semantic_scores

REFERENCE = Path(os.environ.get("RC2L_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"no reference values at {REFERENCE}: set RC2L_REFERENCE to their folder"
)


@pytest.fixture
def small_model(tiny_options):
    """Build the supervised model of configs/toy with the tiny options and ``options``."""

    def make(*options):
        torch.manual_seed(0)
        return build_model(load_config("configs/toy/supervised_R18.yaml", [*tiny_options, *options]))

    return make


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
    options = (
        "MODEL.META_ARCHITECTURE RegionSegmentor MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 50 "
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES 21"
    ).split()
    return build_model(load_config("configs/Base-R101.yaml", [*options, *MASKFORMER])).eval()


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


MASKFORMER = "MODEL.MASK_FORMER.MATCHING hungarian MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME FPN".split()


# --- the model as a whole, which needs no reference values ------------------------------------------------------------


def samples(*sizes: tuple[int, int]) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator),
            "sem_seg": torch.randint(3, size, dtype=torch.uint8, generator=generator),
        }
        for size in sizes
    ]


@pytest.mark.parametrize("autocast", [False, True])
def test_training_losses_reach_every_trained_parameter(small_model, autocast):
    model = small_model(*MASKFORMER).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = model(samples((64, 64), (64, 64)))
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0")}
    assert all(loss.dtype is torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_evaluation_returns_the_requested_size_without_padding(small_model):
    model = small_model().eval()
    first, second = samples((50, 70), (50, 70))
    second.update(height=25, width=41)
    with torch.no_grad():
        results = model([first, second])
        (alone,) = model([first])
        regions = model.regions(model.preprocess([first["image"]]).tensor)
    assert results[0]["sem_seg"].shape == (8, 50, 70) and results[1]["sem_seg"].shape == (8, 25, 41)
    torch.testing.assert_close(results[0]["sem_seg"], alone["sem_seg"], atol=1e-5, rtol=1e-4)
    large = torch.nn.functional.interpolate(regions.mask_logits, size=(64, 96), mode="bilinear", align_corners=False)
    scores = semantic_scores(regions.class_logits, large)[0, :, :50, :70]
    torch.testing.assert_close(alone["sem_seg"], scores)


def test_images_of_different_sizes_are_padded_with_the_ignore_value(small_model):
    model, batch = small_model().train(), samples((40, 64), (64, 50))
    labels = model.preprocess_labels([sample["sem_seg"] for sample in batch])
    assert labels.shape == (2, 64, 64)
    assert (labels[0, 40:] == 255).all() and (labels[1, :, 50:] == 255).all()
    assert all(loss.isfinite() for loss in model(batch).values())


@pytest.mark.parametrize("key, value", [
    ("SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3']"), ("MASK_FORMER.TRANSFORMER_IN_FEATURE", "res9"),
    ("SEM_SEG_HEAD.CONVS_DIM", "40"),
])  # fmt: skip
def test_impossible_configurations_are_refused_with_their_key(small_model, key, value):
    with pytest.raises(InputError, match=f"MODEL.{key}"):
        small_model(*MASKFORMER, f"MODEL.{key}", value)

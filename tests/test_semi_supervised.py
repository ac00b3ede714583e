"""The semi-supervised architectures: which losses each has, with which settings, and what they share."""

from __future__ import annotations

import pytest
import torch
from method_cases import leaves, pixel_consistency, random_case, random_view, rcc, rfc, rmc, semantic_map, smc

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.modeling import SemiSupervisedSegmentor
from rc2l_d2.modeling.hungarian import assign_regions
from rc2l_d2.regions import (
    Selection,
    pixel_contrastive,
)

SIZE = (2, 5, 8, 4, 6, 5)
ARCHITECTURES = ["RC2L", "PixelConsistency", "PixelContrast"]


@pytest.fixture
def make_model(tiny_options):
    def make(architecture: str, *options: str) -> SemiSupervisedSegmentor:
        overrides = [*tiny_options, "MODEL.META_ARCHITECTURE", architecture, *options]
        torch.manual_seed(0)
        return RC2LTrainer.build_model(load_config("configs/toy/rc2l_R18.yaml", overrides))

    return make


@pytest.fixture
def case():
    """A student's regions, their semantic map, pseudo regions, and the view that these were cut from."""
    regions, pseudo = random_case(SIZE, 0, threshold=0.3, dtype=torch.float32)
    return regions, semantic_map(regions), pseudo, random_view(SIZE, 0, dtype=torch.float32)


@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_rc2l_matches_as_it_is_told(make_model, case, matching):
    regions, _, pseudo, view = case
    options = ("MODEL.RC2L.MATCHING", matching, "MODEL.RC2L.MASK_TEMPERATURE", "0.3", "MODEL.RC2L.LOSS_WEIGHT", "2.0")
    assignment = assign_regions(regions, pseudo, 20.0, 1.0) if matching == "hungarian" else None
    expected = {
        "loss_rmc": 2 * 0.2 * rmc(regions, pseudo, 0.3, assignment),
        "loss_rfc": 2 * 0.1 * rfc(regions, pseudo),
        "loss_rcc": 2 * 0.2 * rcc(regions, pseudo, 0.3, assignment),
        "loss_smc": 2 * 1.0 * smc(regions, pseudo),
    }
    torch.testing.assert_close(make_model("RC2L", *options).unlabeled_losses(*case), expected)


def test_hungarian_matching_is_solved_once_and_only_where_a_loss_needs_it(make_model, case, monkeypatch):
    calls = []

    def watch(*args):
        calls.append(args)
        return assign_regions(*args)

    monkeypatch.setattr("rc2l_d2.modeling.rc2l.assign_regions", watch)
    hungarian = ("MODEL.RC2L.MATCHING", "hungarian")
    make_model("RC2L", *hungarian).unlabeled_losses(*case)
    assert len(calls) == 1
    off = ("MODEL.RC2L.RMC_WEIGHT", "0.0", "MODEL.RC2L.RCC_WEIGHT", "0.0")
    assert set(make_model("RC2L", *hungarian, *off).unlabeled_losses(*case)) == {"loss_rfc", "loss_smc"}
    make_model("RC2L").unlabeled_losses(*case)
    assert len(calls) == 1


@pytest.mark.parametrize("architecture, section", [
    ("RC2L", "RC2L"), ("PixelConsistency", "PIXEL"), ("PixelContrast", "PIXEL"),
])  # fmt: skip
def test_each_method_selects_as_its_own_keys_say(make_model, architecture, section):
    values = {"RC2L": ("pixel", 0.11, 0.12), "PIXEL": ("region", 0.21, 0.22)}
    names = ("SELECTION", "CONFIDENCE_THRESHOLD", "CLASS_THRESHOLD_RATIO")
    options = [text for key, of_key in values.items() for name, value in zip(names, of_key, strict=True)
               for text in (f"MODEL.{key}.{name}", str(value))]  # fmt: skip
    assert make_model(architecture, *options).selection == Selection(*values[section])
    assert make_model(architecture).selection.unit == {"RC2L": "region", "PIXEL": "pixel"}[section]


@pytest.mark.parametrize("samples", [0, 7])
def test_pixel_losses_have_their_settings(make_model, case, samples):
    regions, _, pseudo, view = case
    options = (
        "MODEL.PIXEL.CONTRAST_SAMPLES", str(samples), "MODEL.PIXEL.CONTRAST_TEMPERATURE", "0.3",
        "MODEL.PIXEL.CONTRAST_WEIGHT", "0.7", "MODEL.PIXEL.CONSISTENCY_WEIGHT", "0.5", "MODEL.RC2L.LOSS_WEIGHT", "2.0",
    )  # fmt: skip
    model = make_model("PixelContrast", *options)
    torch.manual_seed(3)
    losses = model.unlabeled_losses(*case)
    torch.manual_seed(3)
    contrast = pixel_contrastive(regions.features, view, torch.rand(2, 30), samples, 0.3)
    consistency = pixel_consistency(regions, pseudo)
    torch.testing.assert_close(
        losses, {"loss_pixel_consistency": 1.0 * consistency, "loss_pixel_contrast": 1.4 * contrast}
    )
    assert set(make_model("PixelConsistency", *options).unlabeled_losses(*case)) == {"loss_pixel_consistency"}
    off = make_model("PixelContrast", "MODEL.PIXEL.CONSISTENCY_WEIGHT", "0.0")
    assert set(off.unlabeled_losses(*case)) == {"loss_pixel_contrast"}


def test_all_have_the_same_weights(make_model):
    """So that a checkpoint of one is a plain region predictor to the others, and one seed starts them alike."""
    states = [make_model(name).state_dict() for name in (*ARCHITECTURES, "RegionSegmentor")]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_unlabelled_images_teach(make_model, architecture, case):
    model = make_model(architecture)
    student = leaves(case[0])
    sum(model.unlabeled_losses(student, semantic_map(student), *case[2:]).values()).backward()
    reached = {"class_logits", "mask_logits"} | ({"features"} if architecture != "PixelConsistency" else set())
    for name in ("class_logits", "mask_logits", "features"):
        gradient = getattr(student, name).grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == (name in reached), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_ramp_scales_unlabelled_losses_alone(make_model, architecture):
    model = make_model(architecture).train()
    torch.manual_seed(0)
    samples = [{"image": torch.rand(3, 64, 64) * 255, "sem_seg": torch.randint(0, 8, (64, 64))} for _ in range(2)]
    size = (2, 5, 8, 32, 16, 16)
    pseudo, view = random_case(size, 0, 0.3, torch.float32)[1], random_view(size, 0, dtype=torch.float32)
    strong = torch.randn(2, 3, 64, 64)
    streams = []
    for ramp in (1.0, 0.25):
        torch.manual_seed(0)
        streams.append(model(samples, strong, pseudo, view, ramp))
    for name, full in streams[0].items():
        factor = 0.25 if name in model.loss_weights else 1.0
        torch.testing.assert_close(streams[1][name], factor * full)
    assert model.loss_weights.keys() <= streams[0].keys()
    assert not model.loss_weights.keys() & model(samples).keys(), "during burn-in there are labels alone"

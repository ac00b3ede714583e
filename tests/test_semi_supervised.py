"""The semi-supervised architectures: their losses, settings and common weights."""

import pytest
import torch
from method_cases import in_order, leaves, pixel_consistency, random_case, rcc, reached, rfc, rmc, semantic_map, smc

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.modeling.hungarian import assign_regions
from rc2l_d2.regions import Selection, pixel_contrastive

ARCHITECTURES = ["RC2L", "PixelConsistency", "PixelContrast"]


@pytest.fixture
def case():
    """A student's regions, their semantic map, and pseudo regions."""
    regions, pseudo = random_case((2, 8, 8, 4, 6, 5), 0, threshold=0.3, dtype=torch.float32)
    return regions, semantic_map(regions), pseudo


@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_rc2l_losses_use_their_settings(make_model, case, matching):
    regions, _, pseudo = case
    model = make_model(
        "RC2L", "MODEL.MASK_FORMER.MATCHING", matching, "MODEL.RC2L.MASK_TEMPERATURE", "0.3",
        "MODEL.RC2L.FEATURE_TEMPERATURE", "0.4", "MODEL.RC2L.LOSS_WEIGHT", "2.0", "MODEL.RC2L.RFC_WEIGHT", "0.0",
    )  # fmt: skip
    match = in_order if matching == "class" else lambda regions, pseudo: assign_regions(regions, pseudo, 20.0, 1.0)
    expected = {
        "loss_rmc": rmc(regions, pseudo, 0.3, match),
        "loss_rfc": rfc(regions, pseudo, 0.4),
        "loss_rcc": rcc(regions, pseudo, match),
        "loss_smc": smc(regions, pseudo),
    }
    torch.testing.assert_close(model.unlabeled_losses(*case), expected)
    assert model.loss_weight == 2
    assert model.loss_weights == {"loss_rmc": 0.2, "loss_rfc": 0.0, "loss_rcc": 0.2, "loss_smc": 1.0}


@pytest.mark.parametrize("samples", [0, 7])
def test_pixel_losses_use_their_settings(make_model, case, samples):
    regions, _, pseudo = case
    options = (
        "MODEL.PIXEL.CONTRAST_SAMPLES", str(samples), "MODEL.PIXEL.CONTRAST_TEMPERATURE", "0.3",
        "MODEL.PIXEL.CONTRAST_WEIGHT", "0.7", "MODEL.PIXEL.CONSISTENCY_WEIGHT", "0.5", "MODEL.RC2L.LOSS_WEIGHT", "2.0",
    )  # fmt: skip
    model = make_model("PixelContrast", *options)
    torch.manual_seed(3)
    losses = model.unlabeled_losses(*case)
    torch.manual_seed(3)
    contrast = pixel_contrastive(regions.features, pseudo.teacher, torch.rand(2, 30), samples, 0.3)
    consistency = {"loss_pixel_consistency": pixel_consistency(regions, pseudo)}
    torch.testing.assert_close(losses, {**consistency, "loss_pixel_contrast": contrast})
    assert model.loss_weight == 1
    assert model.loss_weights == {"loss_pixel_consistency": 0.5, "loss_pixel_contrast": 0.7}
    model = make_model("PixelConsistency", *options)
    torch.testing.assert_close(model.unlabeled_losses(*case), consistency)
    assert model.loss_weights == {"loss_pixel_consistency": 0.5}


def test_unimatch_weights_its_views_by_half_and_selects_by_its_own_key(make_model):
    """Two images with two strong views and a dropped one; the logits are those of a per-pixel head."""
    options = "MODEL.SEMI_SUPERVISED.STRONG_VIEWS 2 MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT 0.5".split()
    model = make_model("UniMatch", *options, "MODEL.UNIMATCH.CONFIDENCE_THRESHOLD", "0.9")
    assert model.selection == Selection("pixel", 0.9, 0.0) and model.uses_unlabeled
    assert model.loss_weights == {"loss_strong": 0.5, "loss_dropped": 0.5}
    regions, pseudo = random_case((6, 8, 8, 4, 6, 5), 0, threshold=0.3, dtype=torch.float32)
    semantic = model.semantic_map(regions)
    torch.testing.assert_close(semantic, regions.mask_logits.softmax(dim=1))
    of_label = torch.where(pseudo.valid, (semantic * pseudo.masks).sum(dim=1), 1.0)
    loss = -of_label.double().log().mean(dim=(1, 2)).float()
    expected = {"loss_strong": loss[:4].mean(), "loss_dropped": loss[4:].mean()}
    torch.testing.assert_close(model.unlabeled_losses(regions, semantic, pseudo), expected, rtol=1e-4, atol=1e-5)


def test_training_says_where_a_recipe_is_not_whole(make_trainer, caplog):
    make_trainer("MODEL.META_ARCHITECTURE", "UniMatch", "MODEL.SEMI_SUPERVISED.MIX", "labeled")
    assert "not UniMatch's whole recipe: MODEL.SEMI_SUPERVISED has STRONG_VIEWS 1, FEATURE_DROPOUT 0.0, " in caplog.text
    assert "MIX labeled, the recipe STRONG_VIEWS 2, FEATURE_DROPOUT 0.5, MIX cutmix." in caplog.text
    caplog.clear()
    keys = "MODEL.SEMI_SUPERVISED.STRONG_VIEWS 2 MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT 0.5".split()
    make_trainer("MODEL.META_ARCHITECTURE", "UniMatch", *keys)
    make_trainer()
    assert "recipe" not in caplog.text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_method_selects_by_its_own_keys_and_reaches_the_student(make_model, architecture, case):
    options = """
        MODEL.RC2L.SELECTION pixel MODEL.RC2L.CONFIDENCE_THRESHOLD 0.11 MODEL.RC2L.CLASS_THRESHOLD_RATIO 0.12
        MODEL.PIXEL.SELECTION region MODEL.PIXEL.CONFIDENCE_THRESHOLD 0.21 MODEL.PIXEL.CLASS_THRESHOLD_RATIO 0.22
        MODEL.SEMI_SUPERVISED.MIN_REGION_AREA 7
    """.split()
    model, student = make_model(architecture), leaves(case[0])
    changed, default = make_model(architecture, *options).selection, model.selection
    sum(model.unlabeled_losses(student, semantic_map(student), case[2]).values()).backward()
    features = set() if architecture == "PixelConsistency" else {"features"}
    assert reached(student) == {"class_logits", "mask_logits"} | features
    if architecture == "RC2L":
        assert changed == Selection("pixel", 0.11, 0.12, 7) and default.unit == "region"
    else:  # Pixel-level methods have no smallest region.
        assert changed == Selection("region", 0.21, 0.22, 1) and default.unit == "pixel"


@pytest.mark.parametrize("given, used", [(32, 32), (8, 8), (0, 4), (-1, 4)])
def test_images_are_padded_to_whole_mask_pixels(make_model, given, used):
    model = make_model("RC2L", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", str(given))
    assert model.size_divisibility == used
    size = model.preprocess([torch.zeros(3, 50, 41, dtype=torch.uint8)]).tensor.shape[2:]
    assert size == (-(-50 // used) * used, -(-41 // used) * used)


def test_padding_to_parts_of_mask_pixels_is_refused(make_model):
    with pytest.raises(InputError, match="SIZE_DIVISIBILITY is 30; give a multiple of 4, the stride of the masks"):
        make_model("RC2L", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "30")


def test_all_have_the_same_weights(make_model):
    """A checkpoint of one method loads into the others, and the same seed gives the same initial weights."""
    states = [make_model(name).state_dict() for name in (*ARCHITECTURES, "RegionSegmentor")]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize("method, off, reads", [
    ("RC2L", "MODEL.RC2L.RFC_WEIGHT", True), ("PixelContrast", "MODEL.PIXEL.CONTRAST_WEIGHT", True),
    ("PixelConsistency", "MODEL.PIXEL.CONSISTENCY_WEIGHT", False), ("UniMatch", "MODEL.RC2L.RFC_WEIGHT", False),
])  # fmt: skip
def test_the_methods_that_read_the_teachers_features(make_model, method, off, reads):
    assert make_model(method).reads_teacher_features == reads
    assert not make_model(method, off, "0.0").reads_teacher_features


@pytest.mark.parametrize("name, value", [("EMA_DECAY", "0.9"), ("MIX", "none"), ("BURN_IN_ITERS", "3")])
def test_an_old_key_is_refused_with_its_new_name(name, value, tmp_path):
    old, new = f"MODEL.RC2L.{name}", f"MODEL.SEMI_SUPERVISED.{name}"
    file = tmp_path / "old.yaml"
    file.write_text(f"MODEL:\n  RC2L:\n    {name}: {value}\n")
    for arguments in (("configs/toy/rc2l_R18.yaml", [old, value]), (str(file), [])):
        with pytest.raises(InputError, match=f"{old}.*{new}") as caught:
            load_config(*arguments)
        assert "\n" not in str(caught.value)
    assert load_config("configs/toy/rc2l_R18.yaml", [new, value]).MODEL.SEMI_SUPERVISED[name] is not None

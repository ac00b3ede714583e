"""load_config: one-sentence errors for wrong configurations, on either host."""

import re
import subprocess
import sys

import pytest

from rc2l_d2.engine import load_config
from rc2l_d2.engine.setup import build_model_or_explain, load_backbone
from rc2l_d2.errors import InputError
from rc2l_d2.yaml_files import parse_yaml


@pytest.mark.parametrize(
    "text, fragment",
    [
        ("SEED: !!python/object/apply:os.mkdir [{folder}/ran]\n", "constructor"),
        ("_BASE_: hostile_base.yaml\nSEED: 3\n", "constructor"),
        ("SEED: [1\n", "line"),
        ("SOLVER:\n  MAX_ITER: 3\nSEED: 1\nSOLVER: {}\n", "the key 'SOLVER' is there a second time"),
        ("_BASE_: twice.yaml\nSEED: 3\n", "the key 'SEED' is there a second time"),
        ("1: a\n0x1: b\n", "the key '0x1' is there a second time"),
        ("", ""),
        ("- SEED\n", ""),
        ("SEED\n", ""),
        ("_BASE_: gone.yaml\n", "gone.yaml"),
        ("_BASE_: broken.yaml\n", "in _BASE_ another file"),
        ("_BASE_: seed.yaml\nSEED: {A: 1}\n", "SEED"),
        ("_BASE_: 7\n", ""),
        ("SOLVER: 3\n", "SOLVER"),
        ("SEED: word\n", "SEED"),
        ("VERSION: 7\n", ""),
        ("MODEL:\n  SEMI_SUPERVISED:\n    EMA_DECEY: 0.9\n", "did you mean MODEL.SEMI_SUPERVISED.EMA_DECAY?"),
    ],
)
def test_wrong_files_are_refused_without_running_them(tmp_path, text, fragment):
    (tmp_path / "hostile_base.yaml").write_text(f"SEED: !!python/object/apply:os.mkdir [{tmp_path}/ran]\n")
    (tmp_path / "seed.yaml").write_text("SEED: 1\n")
    (tmp_path / "twice.yaml").write_text("SEED: 1\nSEED: 2\n")
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace("{folder}", str(tmp_path)))
    with pytest.raises(InputError) as caught:
        load_config(str(path))
    message = str(caught.value)
    assert "broken.yaml" in message and fragment in message
    assert "used: None" not in message and "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_keys_that_merge_another_mapping_stay_allowed():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SEED"], "SEED has no value"),
        (["SEED", "many"], "SEED"),
        (["SOLVER", "3"], "SOLVER"),
        (["NO.KEY", "3"], "NO"),
        (["SOLVER.BASE_LRR", "1"], r"SOLVER\.BASE_LRR in the command line .* did you mean SOLVER\.BASE_LR\?"),
        (["DATASETS.TRAIN", "toy_train"], r'DATASETS\.TRAIN.*; give .* \(one data set is written \("name",\)\)\.'),
        (["SOLVER.MAX_ITER", "0"], r"SOLVER\.MAX_ITER is 0; give a value from 1 to inf\."),
        (["MODEL.SEMI_SUPERVISED.EMA_DECAY", "1.5"], "EMA_DECAY is 1.5; give a value from 0 to 1"),
        (["MODEL.PIXEL.CONTRAST_SAMPLES", "-1"], "CONTRAST_SAMPLES is -1"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "0"], "IGNORE_VALUE is 0; give a value from 8, the number"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "256"], "IGNORE_VALUE is 256; give a value from 8"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], 'META_ARCHITECTURE is "GeneralizedRCNN"'),
        (["MODEL.MASK_FORMER.MATCHING", "greedy"], 'MATCHING is "greedy"; use "class" or "hungarian"'),
        (["MODEL.RC2L.SELECTION", "object"], 'RC2L.SELECTION is "object"'),
        (["MODEL.SEMI_SUPERVISED.MIN_REGION_AREA", "0"], "MIN_REGION_AREA is 0; give a value from 1 to inf"),
        (["MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "-5"], "BURN_IN_ITERS is -5; give a value from 0 to inf"),
        (["MODEL.UNIMATCH.CONFIDENCE_THRESHOLD", "95.0"], "CONFIDENCE_THRESHOLD is 95.0; give a value from 0 to 1"),
        (["MODEL.RC2L.LOSS_WEIGHT", "-1.0"], "LOSS_WEIGHT is -1.0; give a value from 0 to inf"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"], "CLIP_VALUE is -1.0"),
        (["SOLVER.WEIGHT_DECAY_NORM", "None"], "WEIGHT_DECAY_NORM is None; give a value from 0"),
        (["MODEL.PIXEL_STD", "['a', 'b', 'c']"], "give a number above 0 for each"),
        (["INPUT.MAX_SIZE_TEST", "0"], "INPUT.MAX_SIZE_TEST is 0; give a value from 8"),
        (["INPUT.MIN_SIZE_TEST", "-5"], "INPUT.MIN_SIZE_TEST is -5; give a value from 0"),
        (["TEST.AUG.MAX_SIZE", "1"], "TEST.AUG.MAX_SIZE is 1; give a value from 8"),
        (["INPUT.MIN_SIZE_TRAIN", "('32','53')"], r"SIZE_TRAIN is \['32', '53'\], in which '32' has the wrong type"),
        (["DATASETS.DEFINITIONS", "(3,)"], r"DEFINITIONS is \[3\], in which 3 has the wrong type"),
        (["SEED", "4294967295"], "SEED is 4294967295"),  # numpy cannot take it for the second rank
        (["MODEL.PIXEL_STD", "[58.0, 57.0]"], r"PIXEL_STD is \[58.0, 57.0\]; give a number above 0 for each of the 3"),
        (["MODEL.PIXEL_STD", "[58.0, 57.0, 0.0]"], "give a number above 0 for each"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"], 'CLIP_TYPE is "value"; use "full_model"'),
        (["SOLVER.OPTIMIZER", "LION"], 'OPTIMIZER is "LION"; use "ADAMW" or "SGD"'),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], 'LR_SCHEDULER_NAME is "WarmupCosineLR"; use "WarmupPolyLR"'),
        (["SOLVER.WARMUP_METHOD", "constant"], 'WARMUP_METHOD is "constant"; use "linear"'),
        (["MODEL.PIXEL.SELECTION", "none"], 'PIXEL.SELECTION is "none"'),
        (["MODEL.SEMI_SUPERVISED.MIX", "mixup"], 'MIX is "mixup"; use "cutmix", "classmix", "labeled" or "none"'),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        load_config("configs/toy/rc2l_R18.yaml", overrides)


@pytest.mark.parametrize(("gpus", "wanted", "device", "message"), [
    (0, None, "cpu", ""),
    (0, "auto", "cpu", ""),
    (0, "cpu", "cpu", ""),
    (0, "cuda", "cpu", "MODEL.DEVICE is cuda, but torch .* finds no GPU; the CPU is used, which is slow"),
    (0, "cuda:1", "cpu", "MODEL.DEVICE is cuda:1, but torch"),
    (2, None, "cuda", ""),
    (2, "cpu", "cpu", ""),
    (2, "cuda:1", "cuda:1", ""),
    (2, "cuda:2", "", r'MODEL.DEVICE is "cuda:2", but there are 2 GPU\(s\), counted from 0'),
    (2, "mps", "", 'MODEL.DEVICE is "mps"; use "cuda", "cpu" or "auto"'),
])  # fmt: skip
def test_the_device_is_what_the_machine_has(monkeypatch, gpus, wanted, device, message):
    """The number of GPUs is set, as no machine has none and two."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    overrides, warnings = ["MODEL.DEVICE", wanted] if wanted else [], []
    if not device:
        with pytest.raises(InputError, match=message):
            load_config("configs/toy/rc2l_R18.yaml", overrides)
        return
    assert load_config("configs/toy/rc2l_R18.yaml", overrides, warnings.append).MODEL.DEVICE == device
    assert len(warnings) == bool(message) and all(re.match(message, warning) for warning in warnings)


def test_random_weights_of_a_resnet_are_not_frozen(tiny_options):
    options = [*tiny_options, "MODEL.META_ARCHITECTURE", "RegionSegmentor"]
    for more in (["MODEL.BACKBONE.FREEZE_AT", "2"], ["MODEL.RESNETS.NORM", "FrozenBN"]):
        cfg = load_config("configs/toy/rc2l_R18.yaml", [*options, *more])
        with pytest.raises(InputError, match="has random weights, of which .* would keep some; give"):
            load_backbone(cfg, build_model_or_explain(cfg))
    cfg = load_config("configs/toy/rc2l_R18.yaml", options)
    load_backbone(cfg, build_model_or_explain(cfg))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the GNU C library")
def test_freed_memory_is_kept_for_the_next_step():
    script = """
import resource, torch
from rc2l_d2.engine import keep_freed_memory
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(9_000_000)  # More than the 32 MB up to which glibc keeps memory by itself.
    for _ in range(3):
        x = x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
page_faults()
before = sum(page_faults() for _ in range(10))
keep_freed_memory()
for _ in range(3):
    page_faults()
# A small allocation may split a kept block, so one step alone may need a new one.
print(before, sum(page_faults() for _ in range(10)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    before, after = map(int, result.stdout.split())
    assert before > 10 * after

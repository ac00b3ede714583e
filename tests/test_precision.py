"""The number type of mixed precision on each device, and what the user is told about it."""

import platform

import pytest
import torch

from rc2l_d2.engine import load_config
from rc2l_d2.engine.precision import describe_precision, mixed_precision_dtype


@pytest.fixture
def cpu(monkeypatch):
    """A function that sets the CPU: whether oneDNN counts its bfloat16, its own instructions, its architecture."""

    def build(counted: bool, instructions: bool | None = None, machine: str = "x86_64"):
        instructions = counted if instructions is None else instructions
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: counted)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return build


@pytest.mark.parametrize("counted, instructions, machine, expected", [
    (True, True, "x86_64", torch.bfloat16),  # Cooper Lake, Sapphire Rapids, Zen 4
    (True, False, "x86_64", None),  # Skylake, Cascade Lake: AVX-512 alone, which oneDNN counts
    (True, False, "AMD64", None),  # the same on Windows
    (False, False, "x86_64", None),  # AVX2
    (True, False, "aarch64", torch.bfloat16),
    (False, False, "arm64", None),
])  # fmt: skip
def test_a_cpu_that_emulates_bfloat16_trains_in_float32(cpu, counted, instructions, machine, expected):
    cpu(counted, instructions, machine)
    cfg = load_config("configs/toy/rc2l_R18.yaml", ["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"])
    assert mixed_precision_dtype(cfg) == expected
    assert ("this CPU has no fast bfloat16" in describe_precision(cfg)) == (expected is None)


@pytest.mark.parametrize("device, enabled, dtype, fast_bfloat16, expected", [
    ("cpu", False, "auto", True, None),
    ("cpu", True, "auto", True, torch.bfloat16),
    ("cpu", True, "auto", False, None),
    ("cpu", True, "bfloat16", False, None),
    ("cpu", True, "float16", True, torch.bfloat16),
    ("cuda", False, "float16", True, None),
    ("cuda:1", True, "auto", True, torch.bfloat16),
    ("cuda", True, "auto", False, torch.float16),
    ("cuda", True, "bfloat16", False, torch.bfloat16),
    ("cuda", True, "float16", True, torch.float16),
])  # fmt: skip
def test_dtype_fits_the_device(monkeypatch, cpu, device, enabled, dtype, fast_bfloat16, expected):
    cpu(fast_bfloat16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast_bfloat16)
    cfg = load_config(
        "configs/toy/rc2l_R18.yaml", f"SOLVER.AMP.ENABLED {enabled} SOLVER.AMP.DTYPE {dtype}".split()
    ).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device  # load_config corrects it where there is no GPU
    assert mixed_precision_dtype(cfg) == expected
    said = describe_precision(cfg)
    assert said.startswith("float32" if expected is None else f"{str(expected)[6:]} mixed")
    assert ("no fast bfloat16" in said) == (enabled and expected is None)


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_follows_the_cpu_and_logs_it_once(make_trainer, cpu, logged, fast):
    cpu(fast)
    trainer = make_trainer("SOLVER.AMP.ENABLED", "True")
    seen = []
    trainer.model.sem_seg_head.register_forward_hook(lambda *arguments: seen.append(arguments[-1].features.dtype))
    trainer._trainer.iter = 0
    trainer._trainer.run_step()
    assert seen == [torch.bfloat16 if fast else torch.float32]
    assert len([message for _, message in logged if message.startswith("Precision: ")]) == 1

"""Number type of mixed precision: SOLVER.AMP and what the device computes fast."""

from __future__ import annotations

import platform

import torch

from ..host import CfgNode


def mixed_precision_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the type that autocast uses on MODEL.DEVICE, or None for float32.

    On a GPU, SOLVER.AMP.DTYPE "auto" is bfloat16 where the GPU has it, which needs no loss scaling, and float16
    elsewhere. On a CPU it is always bfloat16, and only where the CPU has instructions for it.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return torch.bfloat16 if _has_fast_bfloat16() else None
    if cfg.SOLVER.AMP.DTYPE == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return getattr(torch, cfg.SOLVER.AMP.DTYPE)


def _has_fast_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 by instructions of its own.

    oneDNN also counts CPUs with AVX-512 alone, whose convolutions take longer than in float32.
    """
    emulated = platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and not emulated


def describe_precision(cfg: CfgNode) -> str:
    """Return the precision of training in words, for the log and ``--dry-run``."""
    dtype = mixed_precision_dtype(cfg)
    if dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} mixed with float32"
    if cfg.SOLVER.AMP.ENABLED:
        return "float32 (SOLVER.AMP.ENABLED has no effect: this CPU has no fast bfloat16)"
    return "float32"

"""Number type of mixed precision: SOLVER.AMP and what the device computes fast."""

from __future__ import annotations

import torch

from ..host import CfgNode


def mixed_precision_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the type that autocast uses on MODEL.DEVICE, or None for float32.

    On a GPU, SOLVER.AMP.DTYPE "auto" is bfloat16 where the GPU has it, which needs no loss scaling, and float16
    elsewhere. On a CPU it is always bfloat16, and only where the CPU has instructions for it: emulated bfloat16 takes
    about eight times as long as float32.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    if cfg.SOLVER.AMP.DTYPE == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return getattr(torch, cfg.SOLVER.AMP.DTYPE)


def describe_precision(cfg: CfgNode) -> str:
    """Return the precision of training in words, for the log and ``--dry-run``."""
    dtype = mixed_precision_dtype(cfg)
    if dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} mixed with float32"
    if cfg.SOLVER.AMP.ENABLED:
        return "float32 (SOLVER.AMP.ENABLED has no effect: this CPU has no fast bfloat16)"
    return "float32"

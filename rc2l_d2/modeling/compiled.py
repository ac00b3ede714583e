"""A function of a model and tensors run as torch.compile's program, and a sentence where there can be none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..errors import InputError


@cache
def _program(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def run_compiled(function: Callable, *args: Any) -> Any:
    """``function(*args)`` as one program, made at the first call with arguments of new shapes, which takes minutes.

    The program of its gradient is made in the first backward pass, outside of this function.

    Raises:
        InputError: torch cannot make it, as without a C++ compiler.
    """
    try:
        return _program(function)(*args)
    except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
        # The backend's failure is told inside of another one.
        reason = str(getattr(error, "inner_exception", error)).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"MODEL.COMPILE is True, but torch.compile cannot make this model's program here ({reason}); set it to "
            "False."
        ) from error

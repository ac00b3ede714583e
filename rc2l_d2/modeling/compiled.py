"""A function of tensors as one program, and a sentence where this machine cannot make one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import InputError

Result = TypeVar("Result")


def compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` by torch.compile: made at the first call with arguments of new shapes, which takes minutes.

    Raises:
        InputError: when called, where torch cannot make it, as without a C++ compiler.
    """
    program = torch.compile(function, dynamic=False, fullgraph=True)

    def run(*args) -> Result:
        try:
            return program(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise InputError(
                f"MODEL.COMPILE is True, but torch.compile cannot make this model's program here ({reason}); set it to "
                "False."
            ) from error

    return run

"""The one exception for mistakes that a user can mend, and how to know what is too much for a machine."""

import torch


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one sentence that says which file or key is meant, what is wrong with it and what to do. The
    command line prints it alone, without a traceback, and exits with status 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of its GPU did not suffice."""
    # On the CPU torch has no class of its own for it.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)

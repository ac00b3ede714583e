"""Optimizer state that is sharded over the ranks (SOLVER.SHARD_OPTIMIZER)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from ..host import comm


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """Torch's ZeroRedundancyOptimizer for fused optimizers: each rank updates and stores its part of the parameters.

    Differences: an update can be skipped on the device (``found_inf``), the state fits a fused optimizer on a GPU after
    loading, and gathering it for a checkpoint takes little time and memory.
    """

    # A gradient scaler then sets ``found_inf`` of this optimizer, instead of waiting for the device.
    _step_supports_amp_scaling = True

    def step(self, closure: Callable[[], float] | None = None, **kwargs: Any) -> float | None:  # type: ignore[override]
        """Update the parameters, unless ``found_inf`` is set and not zero; then send them to all ranks."""
        self.optim.grad_scale = getattr(self, "grad_scale", None)
        self.optim.found_inf = getattr(self, "found_inf", None)
        return super().step(closure, **kwargs)

    def gather_state(self) -> None:
        """Gather the state of all ranks on the main rank, for its next ``state_dict()``; all ranks call this.

        Torch's own method sends a whole shard as a list of bytes, through the memory of each device, at 10 MB/s.
        """
        own, main = self.optim.state_dict(), comm.is_main_process()
        shards = comm.gather({"param_groups": own["param_groups"], "state": {}})
        numbers = comm.all_gather(sum(len(group["params"]) for group in own["param_groups"]))
        for index in range(max(numbers)):  # One parameter at a time takes less memory than all at once.
            state = _on_cpu(own["state"].get(index))
            states = comm.gather(None if main else state)
            if main:
                states[0] = state  # not sent, which would copy it
            for shard, of_shard in zip(shards, states, strict=True):
                if of_shard is not None:
                    shard["state"][index] = of_shard
        self._all_state_dicts = shards

    def state_dict(self) -> dict[str, Any]:
        """Return the gathered state of all ranks, as an optimizer that is not sharded has it.

        Raises:
            RuntimeError: :meth:`gather_state` was not called before, or this is not the main rank.
        """
        state = super().state_dict()
        self._all_state_dicts = []  # Free the copy of other ranks' state.
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this rank's part of the state of all parameters."""
        super().load_state_dict(state_dict)
        # Torch keeps a second copy of the part, and counters of steps on the CPU, where a fused optimizer cannot use
        # them on a GPU.
        self.state.clear()
        self.optim.load_state_dict(self.optim.state_dict())


def _on_cpu(state: dict[str, Any] | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in state.items()}

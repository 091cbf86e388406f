"""What the allocator really handed out: the peak of a call, to the byte, on a CPU and on a GPU.

On a GPU torch keeps count itself. On a CPU its profiler reports every allocation, from which the running sum is taken, so
that the result does not depend on the machine's load or on what the process did before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class Peak:
    """From now until `stop`: the largest number of bytes that tensors hold, beyond those that are there now."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        from torch.profiler import ProfilerActivity, profile

        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profiler.start()

    def stop(self) -> int:
        """That number."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return int(torch.cuda.max_memory_allocated() - self.before)
        self.profiler.stop()
        results: Any = self.profiler.profiler
        events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
        running = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            running += event.nbytes()
            peak = max(peak, running)
        return peak


def peak_of(call: Callable[[], Any], device: str) -> int:
    """Largest number of bytes that tensors held during `call`, beyond those that were there before."""
    watch = Peak(device)
    call()
    return watch.stop()


@dataclass
class SavedTensors:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters left out.

        with saved.counting(model): loss = ...
        saved.bytes

    Works on fake tensors too, so a model's true size needs no memory.
    """

    _storages: dict[int, tuple[int, Any]] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)

    def counting(self, model: nn.Module) -> Any:
        """A context in which everything that is saved is counted."""
        self._known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._storages[storage._cdata] = (storage.nbytes(), storage)  # held, so that its number stays its own
        return tensor

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self._storages.values())

"""Sums over the pairs of one optimiser step, whatever micro-batches and processes they were spread over."""

from __future__ import annotations

import torch
from torch import Tensor


class StepSums:
    """Adds up per-pair values over micro-batches, then over processes, and turns them into means.

    Means are taken once, at the end, over all pairs of the step, so the number shown does not depend on how they were
    divided. Values stay on the device until `finish`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], *, counts: bool = True) -> None:
        """Add values of some pairs, or only learn the names where the pairs do not count. Shapes: all (batch,)."""
        for name, value in values.items():
            total = value.detach().double().sum() if counts else value.new_zeros((), dtype=torch.float64)
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def finish(self, processes: int) -> dict[str, float]:
        """Sums over all processes, on the host. Every process must have added the same names."""
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name] for name in names])
        if processes > 1:
            torch.distributed.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))  # waits for the device

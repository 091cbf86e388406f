"""Random numbers from a given generator, and from nowhere else."""

from __future__ import annotations

import torch


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def happens(generator: torch.Generator, probability: float) -> bool:
    """True with the given probability. Always takes one number from the generator, so later draws do not depend on it."""
    return uniform(generator, 0.0, 1.0) < probability


def order(generator: torch.Generator, count: int) -> list[int]:
    """The numbers 0 .. count - 1 shuffled."""
    return [int(item) for item in torch.randperm(count, generator=generator)]

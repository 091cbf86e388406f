"""Which pairs meet in which optimiser step: a pure function of (seed, epoch, step), so that a run can go on anywhere.

A step is a fixed number of pairs over all processes. Each process takes every `world_size`-th of them and cuts its share into
micro-batches. Neither the number of processes nor the micro-batch size changes which pairs a step holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parallax.records import seed_for


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step on one process.

    `micro_batches` hold places in the list of pairs. The first `counted` of them count; the others repeat a pair only so that
    all processes go through the same number of micro-batches, as sharded models need it.
    """

    micro_batches: tuple[tuple[int, ...], ...]
    counted: int
    pairs_in_step: int  # over all processes


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps of an epoch.

    Args:
        pairs: how many pairs there are.
        batch_size: pairs per optimiser step over all processes; the last step of an epoch may hold fewer.
        micro_batch_size: pairs per forward pass and process.
        seed: of the order; every epoch has an order of its own.
        repeat: how often each pair is listed per epoch (SeVa's code lists each twice).
        rank, world_size: this process and how many there are.
    """

    pairs: int
    batch_size: int
    micro_batch_size: int
    seed: int = 0
    repeat: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "repeat", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it can be 1 or more")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"process {self.rank} of {self.world_size} cannot be; processes count from 0")

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.pairs * self.repeat / self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's pairs in order. Shape: (pairs * repeat,)."""
        return _order(self.pairs, self.repeat, self.seed, epoch)

    def step(self, epoch: int, step: int) -> Step:
        """Step `step` (0-based within the epoch) as this process sees it."""
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch}")
        places = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        share = places[self.rank :: self.world_size]
        size = self.micro_batch_size
        mine = [tuple(share[start : start + size]) for start in range(0, len(share), size)]
        largest_share = math.ceil(len(places) / self.world_size)
        fill = math.ceil(largest_share / size) - len(mine)
        return Step((*mine, *[(places[0],)] * fill), len(mine), len(places))


@lru_cache(maxsize=4)
def _order(pairs: int, repeat: int, seed: int, epoch: int) -> np.ndarray:
    listed = np.tile(np.arange(pairs), repeat)
    return np.random.default_rng(seed_for(seed, "order", "epoch", epoch)).permutation(listed)

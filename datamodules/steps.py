"""Which pairs meet in which optimiser step: a pure function of (seed, epoch, step), so that a run can go on anywhere.

A step is a fixed number of pairs over all processes. Its rows are sorted by length and cut into micro-batches
(`token_batching.py`), and the micro-batches are dealt out to the processes: as many for each, of about the same cost. Neither the
number of processes nor the size of micro-batches changes which pairs a step holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from datamodules.row_lengths import Padding, RowLengths
from datamodules.token_batching import Limit, cut_for, deal, longest_first
from parallax.records import seed_for

TOGETHER = 50  # steps whose pairs are sorted by length together, with group_by_length


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
        micro_batch_size: pairs per forward pass and process; not used where `micro_batch_tokens` is given.
        seed: of the order; every epoch has an order of its own.
        repeat: how often each pair is listed per epoch (SeVa's code lists each twice).
        rank, world_size: this process and how many there are.
        lengths: tokens of each pair; None takes all for equally long.
        micro_batch_tokens: tokens per forward pass and process, rows times the longest row; needs `lengths`. None for a
            fixed number of pairs.
        group_by_length: steps hold pairs of like length; see `order`. Needs `lengths`.
    """

    pairs: int
    batch_size: int
    micro_batch_size: int
    seed: int = 0
    repeat: int = 1
    rank: int = 0
    world_size: int = 1
    lengths: RowLengths | None = field(default=None, repr=False)
    micro_batch_tokens: int | None = None
    group_by_length: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "repeat", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it can be 1 or more")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"process {self.rank} of {self.world_size} cannot be; processes count from 0")
        if self.lengths is None and (self.micro_batch_tokens is not None or self.group_by_length):
            raise ValueError("micro_batch_tokens and group_by_length can do nothing without the lengths of the pairs")
        if self.lengths is not None and len(self.lengths) != self.pairs:
            raise ValueError(f"there can be one length for each pair, got {len(self.lengths)} for {self.pairs} pairs")

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.pairs * self.repeat / self.batch_size)

    @property
    def limit(self) -> Limit:
        """What one forward pass may hold."""
        rows = self.lengths.rows if self.lengths is not None else 1
        if self.micro_batch_tokens is not None:
            return Limit(tokens=self.micro_batch_tokens, rows=rows)
        return Limit(items=self.micro_batch_size, rows=rows)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's pairs in order. Shape: (pairs * repeat,).

        With `group_by_length` the shuffled pairs of every 50 steps are sorted by length, cut into steps, and all steps are
        shuffled; the last one, which may be smaller, holds pairs of any length.
        """
        if self.group_by_length and self.lengths is not None:
            return _grouped(self.pairs, self.repeat, self.seed, epoch, self.lengths, self.batch_size)
        return _order(self.pairs, self.repeat, self.seed, epoch)

    def groups(self, epoch: int, step: int) -> list[tuple[int, ...]]:
        """The micro-batches of a step over all processes, longest rows first."""
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch}")
        places = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        widths = self.lengths.widths if self.lengths is not None else _equal(self.pairs)
        places = longest_first(places, widths)
        sizes = cut_for([int(widths[place]) for place in places], self.limit, self.world_size)
        ends = np.cumsum(sizes).tolist()
        return [tuple(places[end - size : end]) for size, end in zip(sizes, ends, strict=True)]

    def step(self, epoch: int, step: int) -> Step:
        """Step `step` (0-based within the epoch) as this process sees it."""
        groups = self.groups(epoch, step)
        widths = self.lengths.widths if self.lengths is not None else _equal(self.pairs)
        costs = [len(group) * int(widths[group[0]]) for group in groups]
        shares = deal(costs, self.world_size)
        mine = [groups[number] for number in shares[self.rank]]
        fill = max(map(len, shares)) - len(mine)
        return Step((*mine, *[groups[-1][-1:]] * fill), len(mine), sum(map(len, groups)))

    def padding(self, epoch: int = 0) -> Padding | None:
        """What the forward passes of an epoch's first thousand steps hold, over all processes; None without lengths."""
        if self.lengths is None or not self.pairs:
            return None
        steps = (self.groups(epoch, step) for step in range(min(self.steps_per_epoch, 1000)))
        return self.lengths.padding([group for groups in steps for group in groups])


@lru_cache(maxsize=4)
def _order(pairs: int, repeat: int, seed: int, epoch: int) -> np.ndarray:
    listed = np.tile(np.arange(pairs), repeat)
    return np.random.default_rng(seed_for(seed, "order", "epoch", epoch)).permutation(listed)


@lru_cache(maxsize=4)
def _equal(pairs: int) -> np.ndarray:
    return np.ones(pairs, dtype=np.int64)


@lru_cache(maxsize=4)
def _grouped(pairs: int, repeat: int, seed: int, epoch: int, lengths: RowLengths, batch_size: int) -> np.ndarray:
    """`_order`, with pairs of like length in each step."""
    order = _order(pairs, repeat, seed, epoch)
    whole = len(order) - len(order) % batch_size
    stretch = TOGETHER * batch_size
    by_length = [
        part[np.argsort(-lengths.widths[part], kind="stable")]
        for part in (order[start : min(start + stretch, whole)] for start in range(0, whole, stretch))
    ]
    if not by_length:
        return order
    steps = np.concatenate(by_length).reshape(-1, batch_size)
    shuffled = np.random.default_rng(seed_for(seed, "order", "steps", epoch)).permutation(len(steps))
    return np.concatenate([steps[shuffled].reshape(-1), order[whole:]])

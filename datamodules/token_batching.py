"""Which rows share a forward pass: rows of like length together, so that little of what the model computes is padding.

Rows are sorted by length, longest first, and cut into neighbours: no forward pass takes more than a number of tokens (rows
times the longest row, padding included) or of items. An item is a pair, or a dialogue; it takes `rows` rows of its width. An
item that is too long for the limit has a pass of its own. Everything here is a pure function of lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Limit:
    """What one forward pass may hold. At least one of the two is given.

    Args:
        tokens: rows times the longest row, padding included; None for no limit.
        items: pairs or dialogues; None for no limit.
        rows: rows that each item takes: 1 where its responses share a row, else one per response.
    """

    tokens: int | None = None
    items: int | None = None
    rows: int = 1

    def __post_init__(self) -> None:
        if self.tokens is None and self.items is None:
            raise ValueError("a forward pass needs a limit: of tokens or of items")
        for name in ("tokens", "items", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"a limit of {value} {name} cannot be; it can be 1 or more")

    def fits(self, width: int) -> int:
        """How many items of at most this width go into one pass; 1 for an item that alone exceeds the limit."""
        by_tokens = self.tokens // (self.rows * width) if self.tokens is not None else None
        counts = [count for count in (by_tokens, self.items) if count is not None]
        return max(1, min(counts))


def longest_first(places: Sequence[int], widths: Sequence[int] | np.ndarray) -> list[int]:
    """`places` by falling width of `widths[place]`; equal ones keep their order."""
    return sorted(places, key=lambda place: -widths[place])


def cut(widths: Sequence[int], limit: Limit) -> list[int]:
    """Fewest neighbours that keep the limit: sizes of the groups of `widths`, which fall."""
    sizes, start = [], 0
    while start < len(widths):
        size = min(limit.fits(widths[start]), len(widths) - start)
        sizes.append(size)
        start += size
    return sizes


def cut_for(widths: Sequence[int], limit: Limit, processes: int = 1) -> list[int]:
    """Sizes of groups that keep the limit, as many for every process where there are enough items, and of like cost.

    Args:
        widths: falling.
        limit: of one group.
        processes: the number of groups is a multiple of this, or that of the items if there are too few.
    """
    least = len(cut(widths, limit))
    wanted = min(-(-least // processes) * processes, len(widths))
    sizes = cut(widths, _evened(widths, limit, wanted))
    while len(sizes) < wanted:
        sizes = _with_dearest_halved(widths, sizes)
    return sizes


def deal(costs: Sequence[int], processes: int) -> list[list[int]]:
    """Share groups out: equally many to each process where that is possible, and about the same cost. Group numbers, rising."""
    most = -(-len(costs) // processes)
    shares: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for group in sorted(range(len(costs)), key=lambda number: -costs[number]):
        free = [process for process in range(processes) if len(shares[process]) < most]
        process = min(free, key=lambda number: (load[number], number))
        shares[process].append(group)
        load[process] += costs[group]
    return [sorted(share) for share in shares]


def _evened(widths: Sequence[int], limit: Limit, groups: int) -> Limit:
    """The smallest limit of tokens that still needs no more than so many groups: it makes the dearest group cheap."""
    if not widths:
        return limit
    one, whole = limit.rows * widths[0], limit.rows * widths[0] * len(widths)
    high = min(limit.tokens or whole, whole)
    low = min(one, high)  # an item that exceeds the limit has a group of its own anyway
    while low < high:
        middle = (low + high) // 2
        if len(cut(widths, Limit(middle, limit.items, limit.rows))) <= groups:
            high = middle
        else:
            low = middle + 1
    return Limit(high, limit.items, limit.rows)


def _with_dearest_halved(widths: Sequence[int], sizes: list[int]) -> list[int]:
    """The group of two or more items that costs most, in two halves."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    dearest = max(
        (number for number, size in enumerate(sizes) if size > 1),
        key=lambda number: sizes[number] * widths[starts[number]],
    )
    half = sizes[dearest] // 2
    return [*sizes[:dearest], half, sizes[dearest] - half, *sizes[dearest + 1 :]]

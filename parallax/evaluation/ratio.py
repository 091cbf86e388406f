"""Metrics as ratios of sums, with bootstrap intervals. Everything the evaluation reports is computed here.

A metric is `sum(numerators) / sum(denominators)` over items: CHAIR-i is hallucinated over mentioned objects, accuracy
is right answers over questions, F1 is `2 TP / (2 TP + FP + FN)`. Intervals are percentile bootstrap intervals (Efron,
1979): items are drawn with replacement, and items of one *group* (questions about one image) are drawn together,
because they succeed and fail together. A sum of zero below the line gives no value (None), never a made-up 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95  # coverage of every interval we report
_BLOCK = 4_000_000  # most resampling counts held at once (32 MB)


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its interval. All None when the ratio has nothing below the line; `n` items were counted."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero (for differences)."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> float | None:
    """`sum(numerators) / sum(denominators)`; None when the denominators sum to zero. Shape of both: (items,)."""
    below = float(np.sum(np.asarray(denominators, dtype=np.float64)))
    return float(np.sum(np.asarray(numerators, dtype=np.float64))) / below if below else None


def bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Metric:
    """The ratio and its 95 % interval.

    Args:
        numerators, denominators: shape (items,).
        groups: shape (items,); items of one group are drawn together. None: every item on its own.
        resamples: number of bootstrap draws; 0 gives the value without an interval.
        seed: of the draws; the same seed gives the same interval.
    """
    above, below = _items(numerators, denominators)
    sums = _group_sums(np.stack([above, below], axis=1), groups)  # (groups, 2)
    value = ratio(above, below)
    draws = _resampled(sums, resamples, seed, lambda s: _divide(s[:, 0], s[:, 1]))
    return _metric(value, draws, len(above))


def paired_difference(
    before: tuple[ArrayLike, ArrayLike],
    after: tuple[ArrayLike, ArrayLike],
    groups: Sequence[Hashable] | None = None,
    *,
    relative: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Metric:
    """`after − before` over the same items, both sides resampled together, so that what they share cancels.

    Args:
        before, after: (numerators, denominators), each of shape (items,), item i being the same item on both sides.
        relative: give `(after − before) / before` instead. None when the value before is zero.
    """
    columns = [*_items(*before), *_items(*after)]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"a paired difference needs the same items on both sides, got {len(columns[0])} and {len(columns[2])}"
        )
    sums = _group_sums(np.stack(columns, axis=1), groups)  # (groups, 4)

    def change(s: Floats) -> Floats:
        first, second = _divide(s[:, 0], s[:, 1]), _divide(s[:, 2], s[:, 3])
        return _divide(second - first, first) if relative else second - first

    value = float(change(sums.sum(axis=0, keepdims=True))[0])
    draws = _resampled(sums, resamples, seed, change)
    return _metric(None if np.isnan(value) else value, draws, len(columns[0]))


def _items(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Floats, Floats]:
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.ndim != 1 or above.shape != below.shape:
        raise ValueError(f"numerators and denominators need one shape (items,), got {above.shape} and {below.shape}")
    return above, below


def _group_sums(columns: Floats, groups: Sequence[Hashable] | None) -> Floats:
    """Sum the rows of each group. Shape: (items, columns) → (groups, columns), groups in order of appearance."""
    if groups is None:
        return columns
    if len(groups) != len(columns):
        raise ValueError(f"{len(columns)} items need {len(columns)} group names, got {len(groups)}")
    numbers: dict[Hashable, int] = {}
    rows = np.asarray([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, rows, columns)
    return sums


def _resampled(sums: Floats, resamples: int, seed: int, statistic: Callable[[Floats], Floats]) -> Floats:
    """The statistic of `resamples` draws of the groups with replacement. Shape: (groups, columns) → (resamples,)."""
    count = len(sums)
    if count == 0 or resamples == 0:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _BLOCK // count))
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size)  # how often each group was drawn
        parts.append(statistic(weights.astype(np.float64) @ sums))
    return np.concatenate(parts)


def _divide(above: Floats, below: Floats) -> Floats:
    """Element-wise division, NaN where there is nothing below the line."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _metric(value: float | None, draws: Floats, n: int) -> Metric:
    defined = draws[~np.isnan(draws)]
    if value is None or not len(defined):
        return Metric(value, None, None, n)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, float(low), float(high), n)

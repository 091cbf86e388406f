"""Does a recipe help? Its effect over several seeds and many scenes, with an interval that covers both kinds of luck.

Every metric is a ratio of sums over items (see `ratio.py`). Each replicate of a bootstrap draws the evaluation items anew (the
same draw for before and after, so the comparison stays paired). Three seeds drawn anew would say next to nothing about a fourth
(such intervals cover 78 % where seeds differ more than scenes), so what seeds do enters as Student's t does: the interval is the
mean over seeds ± t(0.975, seeds − 1) × √(variance over seeds ÷ seeds + variance over items). The first variance holds a part of
the second already, so the interval errs on the wide side. With one seed it speaks about scenes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """One metric before and after tuning. `change` is after − before; `relative` is change ÷ before. 95 % intervals."""

    before: float
    after: float  # mean over seeds
    after_by_seed: tuple[float, ...]
    change: float
    change_low: float
    change_high: float
    relative: float
    relative_low: float
    relative_high: float
    seeds: int
    items: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def effect_over_seeds(
    before: tuple[Array, Array],
    after: Sequence[tuple[Array, Array]],
    *,
    replicates: int = 4000,
    seed: int = 0,
) -> Effect:
    """The effect of tuning on one metric.

    Args:
        before: numerators and denominators per item, each of shape (N,).
        after: the same for every training seed, on the same items in the same order.
        replicates: bootstrap replicates.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if the items differ in number, there is no seed, or a denominator sums to zero.
    """
    numerators = np.stack([np.asarray(n, dtype=np.float64) for n, _ in after]) if after else np.zeros((0, 0))
    denominators = np.stack([np.asarray(d, dtype=np.float64) for _, d in after]) if after else np.zeros((0, 0))
    base_num, base_den = (np.asarray(a, dtype=np.float64) for a in before)
    if not len(after):
        raise ValueError("an effect over seeds needs the evaluation of at least one tuned model; none was given")
    if numerators.shape[1:] != base_num.shape or denominators.shape[1:] != base_den.shape:
        raise ValueError(
            f"before has {base_num.shape[0]} items and after {numerators.shape[1]}; both must be evaluated on the same items"
        )
    if base_den.sum() <= 0 or (denominators.sum(axis=1) <= 0).any():
        raise ValueError("a metric whose denominator sums to zero has no value; nothing of its kind was evaluated")

    count, items = numerators.shape
    base = float(base_num.sum() / base_den.sum())
    by_seed = numerators.sum(axis=1) / denominators.sum(axis=1)  # (S,)

    rng = np.random.default_rng(seed)
    changes, relatives = [], []
    for start in range(0, replicates, 500):  # blocks bound the memory of the weights
        rows = min(500, replicates - start)
        weights = rng.multinomial(items, np.full(items, 1.0 / items), size=rows).astype(np.float64)  # (rows, N)
        drawn_base = (weights @ base_num) / np.maximum(weights @ base_den, 1e-12)  # (rows,)
        drawn_seeds = (weights @ numerators.T) / np.maximum(weights @ denominators.T, 1e-12)  # (rows, S)
        drawn_after = drawn_seeds.mean(axis=1)
        changes.append(drawn_after - drawn_base)
        relatives.append((drawn_after - drawn_base) / np.maximum(drawn_base, 1e-12))
    change = float(by_seed.mean() - base)
    relative = change / base if base else float("nan")
    change_low, change_high = _interval(change, np.concatenate(changes), by_seed)
    relative_low, relative_high = _interval(relative, np.concatenate(relatives), by_seed / base if base else by_seed)
    return Effect(
        before=base,
        after=float(by_seed.mean()),
        after_by_seed=tuple(float(v) for v in by_seed),
        change=change,
        change_low=change_low,
        change_high=change_high,
        relative=relative,
        relative_low=relative_low,
        relative_high=relative_high,
        seeds=count,
        items=items,
    )


def _interval(middle: float, drawn: Array, by_seed: Array) -> tuple[float, float]:
    """95 % interval around `middle` from bootstrap draws over items and one value per seed; percentiles for a single seed."""
    if len(by_seed) == 1:
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)
    spread = float(np.sqrt(by_seed.var(ddof=1) / len(by_seed) + drawn.var(ddof=1)))
    half = t_quantile(len(by_seed) - 1) * spread
    return middle - half, middle + half


def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution, by bisection of its distribution function. `freedom`: 1 or more."""
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: int) -> float:
    """P(T < t) for t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = (angle + sine * total) * 2 / math.pi
    else:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + inside / 2
